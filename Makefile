# Everything that a person or CI does here. `make` alone prints the list.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .cache/uv/bin/uv)
PYTHON := .venv/bin/python
CHART := charts/wan22-rayservice
TEXTS := $(wildcard README.md CONTRIBUTING.md CHANGELOG.md RELEASE.md SECURITY.md docs) $(CHART)/README.md $(CHART)/values.yaml

.PHONY: help
help: ## Print what each target does
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 14

.PHONY: setup
setup: .venv/.locked ## Install the locked dependencies into .venv

.venv/.locked: uv.lock pyproject.toml
	@if [ "$(UV)" = .cache/uv/bin/uv ] && [ ! -x $(UV) ]; then \
	  python3 -m venv .cache/uv && .cache/uv/bin/pip install --quiet uv==$(UV_VERSION); fi
	@$(UV) sync --quiet --locked --all-extras --no-extra fa4
	@touch $@

.PHONY: demo
demo: setup ## Make one video on this machine: real Redis, Ray and a gang of two ranks
	@PYTHONPATH=. $(PYTHON) -W ignore -m app.demo

.PHONY: run
run: setup ## Serve http://127.0.0.1:8000 on this machine until Ctrl-C
	@PYTHONPATH=. .venv/bin/serve run --name wan22 app.serve_app:app total_workers=$${TOTAL_WORKERS:-2}

.PHONY: fmt
fmt: setup ## Format the code and mend what ruff can mend by itself
	.venv/bin/ruff check --fix --quiet .
	.venv/bin/ruff format .

.PHONY: lint
lint: setup ## Check format, lint, types, imports and spelling: seconds, once mypy has its cache
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	PYTHONPATH=operator:. .venv/bin/lint-imports
	.venv/bin/codespell $(TEXTS)

.PHONY: unit
unit: setup ## Run the tests that need no Ray, no Go tools and no rank processes: under a minute
	@.venv/bin/pytest -n 2 -m "not slow"

.PHONY: slow
slow: setup tools ## Run what make unit leaves out, but for those that need running pods
	@.venv/bin/pytest -n 2 -m slow --durations=12

.PHONY: generate
generate: setup ## Write what is generated from app/config.py and values.yaml
	$(PYTHON) charts/generate.py

.PHONY: tools
tools: setup ## Build the pinned control plane, KubeRay and Helm that tests run against (once a machine)
	@$(PYTHON) -m tools build

.PHONY: node-tools
node-tools: tools ## Build what else a node with running pods needs (once a machine)
	@$(PYTHON) -m tools build --node

.PHONY: chart
chart: setup ## Check that the chart's generated files are current, lint it and run its suites
	$(PYTHON) charts/generate.py --check
	@$(PYTHON) -m tools build helm helm-unittest
	"$$($(PYTHON) -m tools path helm)" lint --strict --quiet $(CHART)
	"$$($(PYTHON) -m tools path helm-unittest)" --strict $(CHART)

.PHONY: check
check: lint chart ## Run lint and chart

.PHONY: test
test: setup tools ## Run all tests that need no running pods: unit and slow
	@.venv/bin/pytest -n 2 --durations=12

.PHONY: readme
readme: setup ## Run the commands of README's "Try it": make demo, make run and its requests
	@$(PYTHON) -m tools.readme

.PHONY: coverage
coverage: setup ## Print how much of the code the tests in one process run, and the ten least covered files
	@.venv/bin/pytest -q -m "not slow" --cov --cov-report=
	@.venv/bin/coverage report --format=markdown --sort=cover | head -n 12
	@echo "total: $$(.venv/bin/coverage report --format=total) % of lines and branches"

.PHONY: images
images: setup ## Build the images of the app and the operator, with docker or buildah
	@$(PYTHON) -m tools.images

.PHONY: cluster-up
cluster-up: setup node-tools ## Start a real Kubernetes node on this machine and give it the images (Linux, root)
	@$(PYTHON) -m tools.node up

.PHONY: cluster-down
cluster-down: setup ## End that node with everything in it
	@$(PYTHON) -m tools.node down

.PHONY: e2e
e2e: setup node-tools ## Run the tests on a real node (or on the cluster of E2E_KUBECONFIG)
	@.venv/bin/pytest tests/e2e --durations=12

.PHONY: bench
bench: setup node-tools ## Measure the service, the operator and the bundle on a node, and print tables (about 30 minutes)
	$(PYTHON) -m benchmarks.service
	PYTHONPATH=operator:. $(PYTHON) benchmarks/operator/measure.py
	PYTHONPATH=operator:. $(PYTHON) -m benchmarks.cluster
