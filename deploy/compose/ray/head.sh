#!/bin/sh
# The head of the Ray cluster. It trains nothing; drivers of sweeps run here, which do no computing of their own.
#
# The container is in two networks, and Ray must speak to its workers in the inner one: where it is called ${RAY_HOST}.
set -eu
address=$(getent ahostsv4 "${RAY_HOST:-ray}" | head -n 1 | cut -d ' ' -f 1)
exec ray start --head --block --num-cpus=0 --num-gpus=0 --node-ip-address="$address" --port=6379 \
    --dashboard-host=0.0.0.0 --dashboard-port=8265 --object-store-memory="${RAY_OBJECT_STORE:-1073741824}"
