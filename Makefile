# `make` lists what there is to do.
TOPOLOGY ?= quintet
PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export WEB_PORT MANAGEMENT_PORT NODE_RELEASE NODE_BASE_IMAGE QUINTET_STACK

inventory = -i inventories/$(TOPOLOGY).yml -i inventories/containers.yml
# Everything runs from the virtual environment, which Molecule wants to be the active one.
run = PATH="$(CURDIR)/.venv/bin:$$PATH"

vault = $(SITE)/group_vars/all/vault.yml

.PHONY: help deploy destroy secrets test test-fast test-app lint molecule bench-deploy bench-jobs chaos-controls lock clean FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

deploy: .venv/deploy nodes ## Deploy TOPOLOGY (quintet) onto containers on this machine
	@$(run) ansible-playbook $(inventory) playbooks/deploy.yml

nodes: .venv/deploy topology FORCE
	@playbooks/nodes/engine.sh
	@$(run) ansible-playbook $(inventory) playbooks/nodes/create.yml

destroy: .venv/deploy topology ## Remove what deploy made: the containers with their data, and the secrets
	@playbooks/nodes/engine.sh
	@$(run) ansible-playbook $(inventory) playbooks/nodes/destroy.yml

secrets: .venv/deploy topology ## The secrets of a site in a vault, made or edited: SITE=its directory, with hosts.yml
	@test -f "$(SITE)/hosts.yml" || { echo "quintet: make secrets SITE=directory: there is no hosts.yml in '$(SITE)'. inventories/example is such a directory." >&2; exit 1; }
	@if [ -e "$(vault)" ]; then $(run) ansible-vault edit "$(vault)"; else \
	$(run) ansible-playbook -i inventories/$(TOPOLOGY).yml -i "$(SITE)/hosts.yml" playbooks/secrets.yml --extra-vars "secrets_vault=$(abspath $(vault))"; fi

test: lint test-fast test-app molecule ## Everything: lint, fast tests, the projects' tests, each topology

lint: .venv/test ## Ansible, YAML, Python and shell
	@command -v shellcheck >/dev/null || tests/install.sh shellcheck lint
	$(run) yamllint --strict .
	$(run) ansible-lint --offline
	$(run) ruff check .
	$(run) ruff format --check .
	git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run | xargs -0 shellcheck

test-fast: .venv/test ## What needs no container: contract, templates, specs, purity, documents
	$(run) pytest tests

test-app: .venv/test ## The tests of the Django projects, on real services in a container (KEEP=1 leaves it running)
	@command -v "$${CHROMIUM:-chromium}" google-chrome >/dev/null || tests/install.sh chromium "The browser test (or CHROMIUM=, another Chromium)"
	@tests/services.sh status >/dev/null 2>&1 || [ -n "$${KEEP:-}" ] || trap 'tests/services.sh stop' EXIT; \
	tests/services.sh start; \
	(cd app/producer && $(run) pytest); \
	(cd app/service && $(run) pytest)

molecule: molecule-onebox molecule-quintet molecule-foreign ## Each topology, and foreign projects: deploy twice, verify, destroy

molecule-%: .venv/test
	@playbooks/nodes/engine.sh
	MOLECULE_COMMAND_BORDERS=false $(run) molecule test --scenario-name $*

bench-deploy: .venv/deploy ## Time of a deploy against plain shell, on fresh nodes
	@playbooks/nodes/engine.sh
	$(run) python bench/deploy.py

chaos-controls: .venv/test ## Show that the tests of faults can fail, on a quintet of their own
	QUINTET_STACK=controls $(MAKE) TOPOLOGY=quintet deploy
	QUINTET_STACK=controls ANSIBLE_INVENTORY=inventories/quintet.yml,inventories/containers.yml $(run) python -m verify.controls
	QUINTET_STACK=controls $(MAKE) TOPOLOGY=quintet destroy

bench-jobs: .venv/test ## Time of a job against a bare Celery loop and the original design, on fresh nodes
	@playbooks/nodes/engine.sh
	$(run) python bench/jobs.py

lock: .venv/test ## Pin the requirements by hash
	tests/lock.sh

clean: ## Remove the virtual environment and the caches
	rm -rf .venv .cache .pytest_cache .ruff_cache

topology: FORCE
	@test -f inventories/$(TOPOLOGY).yml || { echo "quintet: there is no topology '$(TOPOLOGY)': inventories/$(TOPOLOGY).yml does not exist. There are: $(filter-out containers,$(basename $(notdir $(wildcard inventories/*.yml))))." >&2; exit 1; }

.venv/deploy: requirements.txt
	@playbooks/nodes/venv.sh "$(PYTHON)" requirements.txt
	@touch $@

.venv/test: .venv/deploy requirements-dev.txt
	@playbooks/nodes/venv.sh "$(PYTHON)" requirements-dev.txt
	@touch $@

FORCE:
