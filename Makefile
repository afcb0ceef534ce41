# Everything that is needed: `make demo` and `make test`, each with its set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .clients
SOAK = $(or $(SECONDS),600)

.PHONY: demo test quick lint unit hints mutate e2e clients soak bench protobuf clean help

help: ## what there is
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(VENV)/.run: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what a node needs into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@$(BIN)/python -m compileall -q node  # pip does so for a package, not for a checkout
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing what the tests need into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/.run ## a real three-node cluster, its leader killed under load, and what happened
	$(BIN)/stanchion demo $(ARGS)

test: lint unit e2e ## everything, in about 20 minutes on 2 cores

quick: lint unit ## everything that needs no real processes

lint: $(VENV)/.dev ## style, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/.dev ## unit, property, script and simulator tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests/unit tests/property tests/scripts tests/simulator

hints: $(VENV)/.dev ## find again which seeds show the simulator's mutations
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --record-hints tests/simulator/test_mutations.py tests/simulator/test_raft.py

mutate: $(VENV)/.dev ## change a line at a time and see whether a test fails: make mutate ARGS='--sample 50 node/core'
	$(BIN)/python tests/mutate.py $(ARGS)

e2e: $(VENV)/.dev ## real processes, sockets and clients
	@tests/e2e/clients/install $(CLIENTS) || true  # tests of a client that can't be had are skipped
	$(BIN)/python -m pytest -q -n 3 --dist worksteal -m 'not alone' tests/e2e  # half of the time they wait
	$(BIN)/python -m pytest -q -m alone tests/e2e
	@tests/e2e/clients/install --missing $(CLIENTS)

clients: ## the clients nobody here wrote, for the end-to-end tests (compiler and libnats-dev are Debian's)
	@tests/e2e/clients/install $(CLIENTS)

bench: $(VENV)/.run ## throughput and latency of a three-node cluster with fsync, as JSON
	$(BIN)/python -m bench $(ARGS)

soak: $(VENV)/.dev ## the simulator and the nemesis for as long as you like: make soak SECONDS=3600
	@exec $(BIN)/python tests/soak.py $(SOAK) $(SEED)

protobuf: $(VENV)/.dev ## generate node/protocol/streaming_pb2.py from streaming.proto
	$(BIN)/python -m grpc_tools.protoc -I node/protocol --python_out=node/protocol \
	    --mypy_out=node/protocol node/protocol/streaming.proto

clean: ## forget what was installed and built
	rm -rf $(VENV) $(CLIENTS) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
