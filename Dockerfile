# One image for all services except the database: MLflow, Ray, scheduler and dashboard differ only in their command.
# For the CPU, or for CUDA with --build-arg TORCH_INDEX=https://pypi.org/simple
#
# Python packages are pinned by constraints.txt; Debian packages are those of the release with its updates.
# hadolint global ignore=DL3008,DL3013
ARG PYTHON=3.11.15

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/sweeps/bin:$PATH \
    PIP_CONSTRAINT=/src/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/sweeps && pip install --no-deps --index-url "$TORCH_INDEX" torch
# The dependencies change less often than the code and take minutes to install, so they are a separate layer.
COPY pyproject.toml README.md LICENSE ./
RUN pip install '.[service]'
COPY . .
RUN pip install --no-deps --force-reinstall .

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="sgd-sweeps" \
      org.opencontainers.image.description="Hyperparameter sweeps for torch.optim.SGD, as a service" \
      org.opencontainers.image.licenses="Apache-2.0"
# 'sweeps backup' and 'sweeps restore' need pg_dump and pg_restore. A named volume takes its owner from the folder on
# which it is first mounted.
RUN apt-get update && \
    apt-get install --yes --no-install-recommends postgresql-client && \
    rm -rf /var/lib/apt/lists/* && \
    groupadd --gid 10001 sweeps && \
    useradd --uid 10001 --gid sweeps --no-create-home --home-dir /tmp sweeps && \
    install --directory --owner sweeps --group sweeps /store /artifacts /backups
COPY --from=build /opt/sweeps /opt/sweeps
COPY configs /etc/sweeps/configs
COPY deploy/compose /etc/sweeps/deploy/compose
COPY deploy/compose/image /usr/local/bin
# Everything written at run time goes to volumes and /tmp, so the root file system can be read-only.
ENV PATH=/opt/sweeps/bin:$PATH \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
# The minimum that every container of this image must pass; docker-compose.yml checks more for each service.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s CMD ["sweeps", "--help"]
ENTRYPOINT ["with-secrets"]
CMD ["sweeps", "--help"]
