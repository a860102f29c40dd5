#!/bin/sh
# Start the head of the Ray cluster. It trains nothing: the drivers of sweeps run here, which do no computing.
#
# The container is in two networks. Ray must use the inner one, where the container's name is ${RAY_HOST}.
set -eu
address=$(getent ahostsv4 "${RAY_HOST:-ray}" | head -n 1 | cut -d ' ' -f 1)
exec ray start --head --block --num-cpus=0 --num-gpus=0 --node-ip-address="$address" --port=6379 \
    --dashboard-host=0.0.0.0 --dashboard-port=8265 --object-store-memory="${RAY_OBJECT_STORE:-1073741824}"
