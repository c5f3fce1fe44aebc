# `make` lists what there is to do.
TOPOLOGY ?= quintet
PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export WEB_PORT MANAGEMENT_PORT NODE_RELEASE NODE_BASE_IMAGE QUINTET_STACK

inventory = -i inventories/$(TOPOLOGY).yml -i inventories/containers.yml $(if $(SSH),-i inventories/ssh-containers.yml)
# Everything runs from the virtual environment, which Molecule wants to be the active one.
run = PATH="$(CURDIR)/.venv/bin:$$PATH"

vault = $(SITE)/group_vars/all/vault.yml

.PHONY: help deploy destroy secrets test test-all test-fast test-app lint molecule bench-deploy bench-jobs bench-scale chaos chaos-deploy chaos-controls controls runbooks lock clean FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

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

test: .venv/test ## Lint, fast tests, the projects' tests, and what is quick enough of Molecule
	@playbooks/nodes/engine.sh
	@# The projects' tests mostly wait: what is for a processor is done beside them. What a line says comes at its end.
	@$(MAKE) --jobs 2 --output-sync=line test-app lint test-fast
	@$(MAKE) molecule

test-all: export QUINTET_TESTS = slow or not slow
test-all: test molecule-ha ## The same, with what takes long, and nine hosts

lint: .venv/test ## Ansible, YAML, Python, shell, and what is known against the pinned requirements
	@command -v shellcheck >/dev/null || tests/install.sh shellcheck lint
	$(run) yamllint --strict .
	$(run) ansible-lint --offline
	$(run) ruff check .
	$(run) ruff format --check .
	$(run) python -m tests.audit requirements*.txt app/*/requirements.txt
	git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run | xargs -0 shellcheck

test-fast: .venv/test ## What needs no container: contract, templates, specs, purity, documents
	$(run) pytest --numprocesses auto tests

test-app: .venv/test ## The tests of the Django projects, on real services in a container (KEEP=1 leaves it running)
	@command -v "$${CHROMIUM:-chromium}" google-chrome >/dev/null || tests/install.sh chromium "The browser test (or CHROMIUM=, another Chromium)"
	@tests/services.sh status >/dev/null 2>&1 || [ -n "$${KEEP:-}" ] || trap 'tests/services.sh stop' EXIT; \
	tests/services.sh start; \
	(cd app/producer && $(run) pytest); \
	(cd app/service && $(run) pytest)

molecule: molecule-onebox molecule-quintet molecule-foreign ## onebox, quintet and foreign projects: deploy twice, verify, destroy

molecule-%: .venv/test
	@playbooks/nodes/engine.sh
	MOLECULE_COMMAND_BORDERS=false $(run) molecule test --scenario-name $*

bench-deploy: .venv/deploy ## Time of a deploy against plain shell, on fresh nodes
	@playbooks/nodes/engine.sh
	$(run) python bench/deploy.py

controls: .venv/test ## Show that the tests can fail: each protection taken away, on a quintet of its own
	QUINTET_STACK=controls $(MAKE) TOPOLOGY=quintet deploy
	QUINTET_STACK=controls ANSIBLE_INVENTORY=inventories/quintet.yml,inventories/containers.yml $(run) python -m verify.controls
	QUINTET_STACK=controls $(MAKE) TOPOLOGY=quintet destroy

bench-jobs: .venv/test ## Time of a job against a bare Celery loop and the original design, on fresh nodes
	@playbooks/nodes/engine.sh
	$(run) python bench/jobs.py

bench-scale: .venv/deploy ## Time of a deploy for 1, 5 and 9 hosts, and with up to 25 workers
	@playbooks/nodes/engine.sh
	$(run) python bench/scale.py

runbooks: ## List the runbooks; playbooks/runbooks/README.md leads from a symptom to one
	@awk 'FNR == 1 { n = split(FILENAME, path, "/"); sub(/^# /, ""); printf "  %-16s %s\n", path[n - 1], $$0 }' playbooks/runbooks/*/README.md

chaos: .venv/test ## Faults under load on a deployed ha, and what was noticed of them (FAULTS=, SEED=, TIMES=)
	ANSIBLE_INVENTORY=inventories/ha.yml,inventories/containers.yml $(run) python -m verify.chaos $(if $(SEED),--seed $(SEED)) $(if $(TIMES),--times $(TIMES)) $(foreach fault,$(FAULTS),'$(fault)')

chaos-deploy: .venv/test ## Deploys of TOPOLOGY killed at random points, on nodes of their own (SEED=, TIMES=)
	QUINTET_STACK=killed $(MAKE) nodes
	QUINTET_STACK=killed ANSIBLE_INVENTORY=inventories/$(TOPOLOGY).yml,inventories/containers.yml $(run) python -m verify.chaos.deploys $(if $(SEED),--seed $(SEED)) $(if $(TIMES),--times $(TIMES))
	QUINTET_STACK=killed $(MAKE) destroy

chaos-controls: .venv/test ## Show that the faults can fail: protections taken away on a deployed ha, which is spoilt by it
	ANSIBLE_INVENTORY=inventories/ha.yml,inventories/containers.yml $(run) python -m verify.chaos.controls

lock: .venv/test ## Pin the requirements by hash
	tests/lock.sh

clean: ## Remove the virtual environment and the caches
	rm -rf .venv .cache .pytest_cache .ruff_cache

topology: FORCE
	@test -f inventories/$(TOPOLOGY).yml || { echo "quintet: there is no topology '$(TOPOLOGY)': inventories/$(TOPOLOGY).yml does not exist. There are: $(filter-out containers ssh-containers,$(basename $(notdir $(wildcard inventories/*.yml))))." >&2; exit 1; }

.venv/deploy: requirements.txt
	@playbooks/nodes/venv.sh "$(PYTHON)" requirements.txt
	@touch $@

.venv/test: .venv/deploy requirements-dev.txt
	@playbooks/nodes/venv.sh "$(PYTHON)" requirements-dev.txt
	@touch $@

FORCE:
