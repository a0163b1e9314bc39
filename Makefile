# `make help` lists the targets. Two commands set up a fresh machine with Python 3.11: `make repro` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
READY := $(VENV)/.ready
export PATH := $(abspath $(VENV))/bin:$(PATH)
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help env repro test test-all params lint format bench parity stocknet recovery book ui lock clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

env: $(READY) ## create .venv from the lock (requirements.txt)
$(READY): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "Python 3.11 to 3.13 is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -c "from fusion_alpha import tracking; tracking.prepare()"
	touch $@

repro: $(READY) ## run the whole pipeline on the embedded lab and say where the results are
	dvc repro
	@python run_pipeline.py --summary

test: $(READY) ## the tests that every change must pass (minutes, no GPU, no network)
	python -m pytest -n 2 -m "not slow and not gpu and not s3 and not soak"

test-all: $(READY) ## every test, also the slow ones and those that need a GPU or start servers
	python -m pytest -n 2

params: $(READY) ## compose conf/ into params.yaml
	python -m fusion_alpha.config

lint: $(READY) ## ruff, mypy, and params.yaml against conf/
	ruff check .
	ruff format --check .
	mypy
	python -m fusion_alpha.config --check

format: $(READY) ## let ruff write its format
	ruff format .
	ruff check --fix .

bench: $(READY) ## measure the kernels beside their peers; appends to metrics/bench.csv
	python -m kernels.bench

parity: $(READY) ## train FusionNet with BICEP's dropout and with torch's, and compare (ten minutes)
	dvc repro kernels/dvc.yaml

stocknet: $(READY) ## every system of the StockNet benchmark on real data (an hour; STOCKNET_ARCHIVE=FILE, else it downloads)
	dvc repro stages/dvc.yaml:stocknet

recovery: $(READY) ## thirty simulated markets: is what was planted found, and nothing else? (ten minutes)
	dvc repro stages/dvc.yaml:lab_recovery

book: $(READY) ## build the Nimbus Book (site and PDF) from the results of the last run
	python docs/build.py

ui: $(READY) ## MLflow's comparison of runs, on this machine only
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false PYTHONWARNINGS=ignore mlflow ui --backend-store-uri sqlite:///mlflow.db \
	  --workers 1 --host 127.0.0.1 --uvicorn-opts "--log-level warning"

lock: $(READY) ## refresh requirements.txt from pyproject.toml
	pip-compile --quiet --extra dev --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --no-header --output-file requirements.txt pyproject.toml
	sed -i 's/^torch==\([0-9.]*\)+.*/torch==\1/' requirements.txt  # the version, not the machine's build of it

# Not all of .cache: headlines that Yahoo no longer serves are kept nowhere else.
clean: ## remove the environment and the caches; data, models and experiments stay
	rm -rf $(VENV) .cache/bicep .cache/embeddings .cache/recovery .cache/train .cache/yahoo/yfinance .mypy_cache .ruff_cache .pytest_cache .hypothesis docs/_build
