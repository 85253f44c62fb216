# `make` lists what there is. Every target prepares what it needs; the second run starts in seconds.
SHELL := /bin/bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Files that are checked for the words in tools/words.
PLAIN  := README.md CONTRIBUTING.md Makefile examples SECURITY.md CHANGELOG.md alertmanager grafana prometheus docs \
          materialize demo producer compose docker-compose.yml novu .env.example deploy \
          exporter bench tests \
          ':!demo/tocsin_demo/stack/processes.py' ':!exporter/tocsin/ledger/schema.py' ':!tests/contract/test_ledger_migrations.py'

.DEFAULT_GOAL := help
.PHONY: help demo test test-live check check-deploy format bench rehearse lock docs site clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock exporter/pyproject.toml producer/pyproject.toml demo/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tocsin needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@echo "preparing $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e exporter -e producer -e demo
	@touch $@

demo: $(READY)  ## run the whole thing on this machine: database, producer, Tocsin, inbox
	@$(BIN)/tocsin-demo

# Two workers more than there are cores, since tests wait. With compiled files each of them starts in half the time.
test: $(READY)  ## run the tests
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -q -n $$(( $$(getconf _NPROCESSORS_ONLN) + 2 )) --dist loadgroup

test-live: $(READY)  ## run the live tests (TOCSIN_TEST_MATERIALIZE_DSN; some also need TOCSIN_TEST_KAFKA)
	@test -n "$$TOCSIN_TEST_MATERIALIZE_DSN" || { echo "set TOCSIN_TEST_MATERIALIZE_DSN, e.g. postgresql://materialize@127.0.0.1:6875/materialize"; exit 1; }
	@$(BIN)/pytest -q -m live

check: $(READY)  ## lint, formatting, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy exporter/tocsin producer/tocsin_producer demo/tocsin_demo materialize compose novu tests bench docs examples/custom-channel/my_package
	@$(BIN)/lint-imports --no-cache
	@git grep --line-number --word-regexp --ignore-case --extended-regexp -f tools/words -- $(PLAIN); \
	  test $$? -eq 1 || { echo "replace these words by plain ones: tools/words"; exit 1; }

format: $(READY)  ## format the code and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY)  ## measure, and print one table
	@$(BIN)/python -m bench

docs: $(READY)  ## write the generated tables in docs/
	@$(BIN)/python docs/generate.py

site: $(READY)  ## build the documentation as a site, in build/site
	@$(BIN)/python docs/build_site.py

rehearse: $(READY)  ## start the stack in containers, with stand-ins, where a Docker engine runs
	@tests/e2e/rehearsal/run

# The first run builds Helm and a Kubernetes API server, which takes half an hour; the next ones take five minutes.
check-deploy: $(READY)  ## check what deploy/ has with an API server of Kubernetes and, where a Docker engine runs, with systemd
	@TOCSIN_TEST_DEPLOY=1 $(BIN)/pytest -q tests/shipped/test_helm_chart.py tests/shipped/test_systemd.py tests/shipped/test_compose.py tests/deploy

lock: $(READY)  ## solve the dependencies again
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --upgrade \
	  exporter/pyproject.toml producer/pyproject.toml demo/pyproject.toml --all-extras --group dev --group docs \
	  --no-emit-package tocsin --no-emit-package tocsin-producer -o requirements.lock

clean:  ## remove the local environment, the built site and caches
	@rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
