# make demo    set up, then train the published cases: start here
# make test    set up, then run the whole test suite
# make help    all targets
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# For the tests, if torch does not include it. Not in constraints.txt: CUDA builds of torch require their own version.
TRITON := triton==3.9.0

SUDO = $(if $(filter-out 0,$(shell id -u)),sudo)
COMPOSE ?= docker compose
CREATECLUSTER := /etc/postgresql-common/createcluster.d

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast chaos lint format bench gpu ui secrets up down test-compose postgresql chromium prometheus constraints clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(VENV)/.runtime ## train the published cases and compare them with torch's numbers
	$(BIN)/sweeps run configs/seed.yaml --executor ray

ui: $(VENV)/.runtime ## browse the runs in the MLflow UI
	$(BIN)/sweeps ui

test: $(VENV)/.dev ## run the whole test suite
	$(PYTEST) $(TESTS)

test-fast: $(VENV)/.dev ## run the tests that start no process, server, browser or Ray (those without the mark slow)
	$(PYTEST) -m 'not slow' $(TESTS)

chaos: $(VENV)/.dev ## kill drivers, workers, nodes, clusters, servers and databases at random: make chaos ROUNDS=20 SEED=1
	$(BIN)/python -m pytest -v tests/chaos --chaos-rounds $(or $(ROUNDS),20) --chaos-seed $(or $(SEED),0) $(TESTS)

secrets: ## create random passwords and tokens in ./secrets; keep existing ones
	@$(PYTHON) deploy/compose/make_secrets.py secrets

up: secrets ## start the service with Docker Compose and wait until it is healthy
	$(COMPOSE) up --detach --build --wait

down: ## stop the service; keep its volumes
	$(COMPOSE) down

test-compose: $(VENV)/.dev ## build the image and test the service in containers; needs a Docker engine
	COMPOSE='$(COMPOSE)' $(BIN)/python -m pytest -v tests/compose

lint: $(VENV)/.dev ## check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench ## measure against other libraries, side by side
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.shapes
	$(BIN)/python -m benchmarks.overheads
	$(BIN)/python -m benchmarks.networks
	$(BIN)/python -m benchmarks.modules
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.driver
	$(BIN)/python -m benchmarks.tracking
	$(BIN)/python -m benchmarks.tracking --database postgresql
	$(BIN)/python -m benchmarks.pages
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.latency

# Uses the installed environment as it is: CUDA builds of torch come with their own Triton.
gpu: ## test and measure a CUDA GPU, and write build/gpu/gpu.json and gpu.md: make gpu, or without a GPU make gpu DRY_RUN=1
	$(BIN)/python -m benchmarks.gpu $(if $(DRY_RUN),--dry-run)

constraints: ## update constraints.txt to the newest versions that pyproject.toml allows
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/pip install --quiet --upgrade '.[dev,bench]'
	{ head -1 constraints.txt; build/constraints/bin/pip freeze | sed 's/+cpu//' | grep -v '^sgd-sweeps'; } > build/constraints.new
	mv build/constraints.new constraints.txt

clean: ## remove all build products; keep the sweeps in sweep-store
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is required: make PYTHON=python3.12 ...' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

# The tests open the pages in a real browser: Debian's package, or Chromium or Chrome on the PATH.
$(VENV)/.chromium: $(VENV)/bin/python
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		$(MAKE) chromium
	@touch $@

chromium:
	@command -v apt-get >/dev/null || { echo 'The tests need Chromium: put chromium on the PATH' >&2; exit 2; }
	$(SUDO) apt-get update -q
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium

# Tests and benchmarks start their own PostgreSQL: only the programs are needed, from a Debian package or on the PATH.
$(VENV)/.postgresql: $(VENV)/bin/python
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || $(MAKE) postgresql
	@touch $@

postgresql:
	@command -v apt-get >/dev/null || \
		{ echo 'The tests need PostgreSQL 13 or newer: put initdb and pg_ctl on the PATH' >&2; exit 2; }
	$(SUDO) mkdir -p $(CREATECLUSTER)
	echo 'create_main_cluster = false' | $(SUDO) tee $(CREATECLUSTER)/none.conf >/dev/null
	$(SUDO) apt-get update -q
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends postgresql
	$(SUDO) rm $(CREATECLUSTER)/none.conf

# The tests run the dashboards' queries on a real Prometheus. It is unpacked, not installed: Debian's package starts a
# server.
$(VENV)/.prometheus: $(VENV)/bin/python
	@test -x $(BIN)/promtool || { command -v prometheus && command -v promtool; } >/dev/null || $(MAKE) prometheus
	@touch $@

prometheus: $(VENV)/bin/python
	@command -v apt-get >/dev/null || \
		{ echo 'The tests need Prometheus: put prometheus and promtool on the PATH' >&2; exit 2; }
	$(SUDO) apt-get update -q
	rm -rf $(VENV)/prometheus && mkdir $(VENV)/prometheus
	cd $(VENV)/prometheus && apt-get download -q prometheus && dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb
	ln -sf ../prometheus/usr/bin/prometheus ../prometheus/usr/bin/promtool $(BIN)

$(VENV)/.dev: $(VENV)/.runtime $(VENV)/.postgresql $(VENV)/.chromium $(VENV)/.prometheus
	$(INSTALL) --editable '.[dev]'
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(INSTALL) --no-deps $(TRITON)
	@touch $@

$(VENV)/.bench: $(VENV)/.runtime $(VENV)/.postgresql
	$(INSTALL) --editable '.[bench]'
	@touch $@
