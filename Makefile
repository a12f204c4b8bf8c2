# The two commands are `make demo` and `make test`. Each installs, starts and builds what is missing, and says so.
# They need Python 3.11+, and root or sudo. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
SUDO := $(shell test "$$(id -u)" = 0 || echo 'sudo -E env HOME=/root PATH="$(PATH)"')
RESULTS := .cache/test-results
TEST_WORLD := TESTKIT_NAME=gateway-test TESTKIT_NETWORK=198.18.78 TESTKIT_DIR="$(CURDIR)/.testkit"
SCENARIOS := check_first default billing lifecycle

.PHONY: help demo demo-down test lint unit molecule figures-billing bench docs lock collection clean bench-deploy torture

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

## make demo-down    removes all that the demo made
demo-down: .venv/.installed
	@command -v docker >/dev/null || { echo "There is no Docker engine, so there is no demo to remove."; exit 1; }
	@$(SUDO) testkit/engine.sh
	@$(SUDO) $(BIN)/ansible-playbook testkit/down.yml -i inventory/demo
	@$(SUDO) testkit/engine.sh stop

## make test         lint, unit tests, Molecule scenarios
test: .venv/.installed
	@rm -rf $(RESULTS) && mkdir -p $(RESULTS)
	@code=0; $(MAKE) --no-print-directory lint unit molecule || code=1; \
	$(BIN)/python tests/summary.py $(RESULTS) proxy_app unit testkit $(SCENARIOS:%=molecule-%) || code=1; \
	exit $$code

## make lint         ansible-lint, yamllint, ruff, mypy, import contracts, docs up to date
lint: .venv/.installed
	@echo "== lint"
	@$(BIN)/yamllint --strict .
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@cd proxy_app && ../$(BIN)/ruff check --quiet . && ../$(BIN)/ruff format --quiet --check .
	@cd proxy_app && ../$(BIN)/mypy && ../$(BIN)/lint-imports --no-cache >/dev/null
	@$(BIN)/ansible-lint --offline --profile production -q
	@for inventory in demo example; do for playbook in site.yml playbooks/*.yml; do \
	  $(BIN)/ansible-playbook --syntax-check -i inventory/$$inventory $$playbook >/dev/null || exit 1; \
	done; done
	@$(BIN)/python docs/generate.py --check

## make unit         the tests that need no container
unit: .venv/.installed
	@mkdir -p $(RESULTS)
	@$(SUDO) testkit/packages.sh gcc libc6-dev nginx postgresql strace
	@echo "== unit tests: proxy_app"
	@cd proxy_app && ../$(BIN)/pytest -q -n 2 --dist loadfile --junitxml=../$(RESULTS)/proxy_app.xml
	@echo "== unit tests: collection"
	@$(BIN)/pytest -q -n 2 tests/unit --junitxml=$(RESULTS)/unit.xml
	@echo "== unit tests: testkit"
	@cd testkit && ../$(BIN)/pytest -q tests --junitxml=../$(RESULTS)/testkit.xml

## make molecule     the Molecule scenarios; SCENARIOS=rollout for that one, which is in no other command
molecule: .venv/.installed
	@mkdir -p $(RESULTS)
	@$(SUDO) testkit/engine.sh
	@code=0; for scenario in $(SCENARIOS); do \
	  echo "== molecule test -s $$scenario"; \
	  $(SUDO) rm -f $(RESULTS)/molecule-$$scenario.xml; \
	  $(SUDO) $(BIN)/molecule test -s $$scenario || code=1; \
	  $(BIN)/python tests/summary.py $(RESULTS) molecule-$$scenario || code=1; \
	done; \
	$(SUDO) env $(TEST_WORLD) $(BIN)/ansible-playbook testkit/down.yml -i inventory/demo; \
	$(SUDO) testkit/engine.sh stop; \
	exit $$code

## make figures-billing   measures what is billed; SIZE=0.01 for a short run
figures-billing: .venv/.installed
	@$(SUDO) testkit/packages.sh strace
	@PYTHONPATH=proxy_app $(BIN)/python bench/billing.py --size $(or $(SIZE),1)

## make bench        measures the relay beside HAProxy, nginx and LiteLLM (half an hour); SIZE=quick ONLY=throughput for less
bench: .venv/.installed
	@$(SUDO) testkit/packages.sh gcc libc6-dev haproxy nginx
	@$(BIN)/python bench/relay.py --size $(or $(SIZE),full) $(if $(ONLY),--only $(ONLY))

## make bench-deploy   measures what a run of site.yml costs with 2, 10 and 50 upstreams (about half an hour)
bench-deploy: .venv/.installed
	@$(SUDO) $(BIN)/python bench/deploy.py

## make torture      faults, kills, attacks and rollouts, and what held (hours); SIZE=0.01 ONLY=faults,kill9 for less
torture: .venv/.installed
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

## make clean        removes what the commands made in this folder
clean:
	$(SUDO) rm -rf .venv .cache .testkit dist

.venv/.installed: requirements-dev.txt testkit/venv.sh
	@PYTHON=$(PYTHON) SUDO="$(SUDO)" testkit/venv.sh .venv requirements-dev.txt
	@touch $@
