# The two commands are `make demo` and `make test`. Each installs, starts and builds what is missing, and says so.
# They need Python 3.11+, and root or sudo. `make help` lists the rest.
SHELL := /bin/bash
# The distribution's, where it is new enough: others are often built without profile-guided optimisation, and a fourth slower.
PYTHON ?= $(shell /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
  echo /usr/bin/python3 || echo python3)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Ansible stops where the locale is one that this machine has not made, as over ssh to a fresh one.
export LC_ALL := C.UTF-8
SUDO := testkit/as_root.sh
RESULTS := .cache/test-results
TEST_WORLD := TESTKIT_NAME=gateway-test TESTKIT_NETWORK=198.18.78 TESTKIT_DIR="$(CURDIR)/.testkit"
SIDE_BY_SIDE := --no-print-directory --keep-going --jobs=2 --output-sync=target
SCENARIOS := check_first default billing lifecycle

# One thing after the other, but for what `make test` runs side by side.
ifeq ($(filter lint test-molecule,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif
.PHONY: help demo demo-down test lint lint-yaml lint-python lint-proxy_app lint-ansible lint-syntax lint-docs \
  unit unit-packages unit-proxy_app unit-collection unit-testkit molecule test-molecule test-down \
  figures-billing bench docs lock collection clean bench-deploy torture cache

help:
	@sed -n 's/^## //p' Makefile

## make demo         a VPS, simulated providers, and the real playbook against them; ends with a stream through each domain
demo: .venv/.installed
	@echo "[1/4] Docker engine"
	@$(SUDO) testkit/engine.sh
	@echo "[2/4] A VPS, and what stands in for the internet (first time: about a minute)"
	@$(SUDO) $(BIN)/ansible-playbook testkit/up.yml -i inventory/demo
	@echo "[3/4] ansible-playbook site.yml -i inventory/demo (first time: a few minutes)"
	@$(SUDO) $(BIN)/ansible-playbook site.yml -i inventory/demo
	@echo "[4/4] One message through each domain"
	@$(BIN)/python testkit/show.py .demo/connection.json

## make demo-down    removes the demo; images, installed packages and a Docker engine that systemd runs stay
demo-down: .venv/.installed
	@command -v docker >/dev/null || { echo "There is no Docker engine, so there is no demo to remove."; exit 1; }
	@$(SUDO) testkit/engine.sh
	@$(SUDO) $(BIN)/ansible-playbook testkit/down.yml -i inventory/demo
	@$(SUDO) testkit/engine.sh stop

## make test         lint, unit tests, Molecule scenarios; what fails keeps nothing else from running
# The scenarios leave one of two cores idle: the unit tests run beside them, and each suite shows its output when it ends.
# Packages come before, as Debian's tools let one install at a time.
test: .venv/.installed cache
	@$(SUDO) rm -rf $(RESULTS) && mkdir -p $(RESULTS)
	@$(MAKE) $(SIDE_BY_SIDE) lint || echo lint >>$(RESULTS)/failed
	@$(MAKE) --no-print-directory unit-packages || echo unit-packages >>$(RESULTS)/failed
	@$(MAKE) $(SIDE_BY_SIDE) test-molecule unit || echo molecule unit >>$(RESULTS)/failed
	@$(BIN)/python tests/summary.py --failed "$$(cat $(RESULTS)/failed 2>/dev/null)" \
	  $(RESULTS) proxy_app unit testkit $(SCENARIOS:%=molecule-%)

# Of what runs beside another thing, the output is held back until it ends; not of a make of its own.
test-molecule:
	@$(MAKE) --no-print-directory --output-sync=none molecule

## make lint         ansible-lint, yamllint, ruff, mypy, import contracts, docs up to date; -k for all that there is
lint: lint-yaml lint-python lint-proxy_app lint-ansible lint-syntax lint-docs

lint-yaml: .venv/.installed
	@echo "== lint"
	@$(BIN)/yamllint --strict .

lint-python: .venv/.installed
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy

lint-proxy_app: .venv/.installed
	@cd proxy_app && ../$(BIN)/ruff check --quiet . && ../$(BIN)/ruff format --quiet --check .
	@cd proxy_app && ../$(BIN)/mypy && ../$(BIN)/lint-imports --no-cache >/dev/null

lint-ansible: .venv/.installed
	@$(BIN)/ansible-lint --offline --profile production -q

lint-syntax: .venv/.installed
	@for inventory in demo example; do \
	  $(BIN)/ansible-playbook --syntax-check -i inventory/$$inventory site.yml playbooks/*.yml >/dev/null || exit 1; \
	done

lint-docs: .venv/.installed
	@$(BIN)/python docs/generate.py --check

## make unit         the tests that need no container
unit: unit-proxy_app unit-collection unit-testkit

unit-packages: .venv/.installed cache
	@$(SUDO) testkit/packages.sh gcc libc6-dev nginx postgresql strace

unit-proxy_app: unit-packages
	@echo "== unit tests: proxy_app"
	@cd proxy_app && ../$(BIN)/pytest -q -n 3 --dist loadfile --junitxml=../$(RESULTS)/proxy_app.xml

unit-collection: unit-packages
	@echo "== unit tests: collection"
	@$(BIN)/pytest -q -n 2 tests/unit --junitxml=$(RESULTS)/unit.xml

unit-testkit: .venv/.installed cache
	@echo "== unit tests: testkit"
	@cd testkit && ../$(BIN)/pytest -q tests --junitxml=../$(RESULTS)/testkit.xml

## make molecule     the Molecule scenarios; SCENARIOS=rollout for that one, which is in no other command
molecule: .venv/.installed cache
	@$(SUDO) $(BIN)/python testkit/scenarios.py $(RESULTS) $(SCENARIOS)

## make test-down    removes the test hosts, where a run that was killed has left them
test-down: .venv/.installed
	@$(SUDO) testkit/engine.sh
	@$(SUDO) env $(TEST_WORLD) $(BIN)/ansible-playbook testkit/down.yml -i inventory/demo
	@$(SUDO) testkit/engine.sh stop

## make figures-billing   measures what is billed; SIZE=0.01 for a short run
figures-billing: .venv/.installed cache
	@$(SUDO) testkit/packages.sh strace
	@PYTHONPATH=proxy_app $(BIN)/python bench/billing.py --size $(or $(SIZE),1)

## make bench        measures the relay beside HAProxy, nginx and LiteLLM (half an hour); SIZE=quick ONLY=throughput for less
bench: .venv/.installed cache
	@$(SUDO) testkit/packages.sh gcc libc6-dev haproxy nginx
	@$(BIN)/python bench/relay.py --size $(or $(SIZE),full) $(if $(ONLY),--only $(ONLY))

## make bench-deploy   measures what a run of site.yml costs with 2, 10 and 50 upstreams (about half an hour)
bench-deploy: .venv/.installed cache
	@$(SUDO) $(BIN)/python bench/deploy.py

## make torture      faults, kills, attacks and rollouts, and what held (hours); SIZE=0.01 ONLY=faults,kill9 for less
torture: .venv/.installed cache
	@$(SUDO) testkit/packages.sh faketime nginx strace
	@$(SUDO) env PYTHONPATH=proxy_app:bench $(BIN)/python -m torture.run --size $(or $(SIZE),1) $(if $(ONLY),--only $(ONLY))

## make docs         writes docs/roles from the roles' argument_specs
docs: .venv/.installed
	@$(BIN)/python docs/generate.py

## make collection   builds the collection's tarball in dist/
collection: .venv/.installed
	@$(BIN)/ansible-galaxy collection build --force --output-path dist

## make lock         pins and hashes all Python dependencies anew (needs uv)
lock: .venv/.installed
	@$(BIN)/pip install --quiet uv
	@for file in requirements requirements-dev proxy_app/requirements roles/certbot/files/requirements; do \
	  $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	    --custom-compile-command "make lock" $$file.in -o $$file.txt || exit 1; \
	done

## make clean        removes what the commands made in this folder; of the demo, make demo-down does
clean:
	@[ ! -d .testkit ] || $(MAKE) --no-print-directory test-down
	$(SUDO) rm -rf .venv .cache .testkit dist

# Root writes into it, too; it is the user's, who has to write his test results there.
cache:
	@mkdir -p $(RESULTS) 2>/dev/null && [ -w .cache ] && [ -w $(RESULTS) ] || \
	  { $(SUDO) mkdir -p $(RESULTS) && $(SUDO) chown "$$(id -u):$$(id -g)" .cache $(RESULTS); }

.venv/.installed: requirements-dev.txt testkit/venv.sh
	@PYTHON="$(PYTHON)" testkit/venv.sh .venv requirements-dev.txt
	@touch $@
