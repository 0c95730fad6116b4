# Everything that a person or CI does here. `make` alone says what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .cache/uv/bin/uv)
PYTHON := .venv/bin/python

.PHONY: help
help: ## Say what each target does
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

.PHONY: tools
tools: setup ## Build the pinned control plane, KubeRay and Helm that tests run against (once a machine)
	@$(PYTHON) -m tools build

.PHONY: node-tools
node-tools: tools ## Build what a node with running pods needs besides (once a machine)
	@$(PYTHON) -m tools build --node

.PHONY: images
images: setup ## Build the images of the app and the operator, with docker or buildah
	@$(PYTHON) -m tools.images

.PHONY: cluster-up
cluster-up: setup node-tools ## Start a real Kubernetes node on this machine and give it the images (Linux, root)
	@$(PYTHON) -m tools.node up

.PHONY: cluster-down
cluster-down: setup ## End that node with everything in it
	@$(PYTHON) -m tools.node down

.PHONY: test
test: setup tools ## Run all tests that need no running pods
	@.venv/bin/pytest -n 2 --durations=12

.PHONY: e2e
e2e: setup node-tools ## Run the tests on a real node (or on the cluster of E2E_KUBECONFIG)
	@.venv/bin/pytest tests/e2e --durations=12

.PHONY: check
check: setup tools ## Check format, lint, types, imports and the chart
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	PYTHONPATH=operator:. .venv/bin/lint-imports
	$(PYTHON) charts/generate.py --check
	@"$$($(PYTHON) -m tools path helm)" lint --strict --quiet charts/wan22-rayservice 2>/dev/null
	@"$$($(PYTHON) -m tools path helm-unittest)" --strict charts/wan22-rayservice | tail -n 6

.PHONY: bench
bench: setup node-tools ## Measure the service, the operator and the bundle on a node, and print tables (about 30 minutes)
	$(PYTHON) -m benchmarks.service
	PYTHONPATH=operator:. $(PYTHON) benchmarks/operator/measure.py
	PYTHONPATH=operator:. $(PYTHON) -m benchmarks.cluster
