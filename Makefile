# `make help` lists the targets. Two commands set up a fresh machine with Python 3.11: `make repro` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
READY ?= $(VENV)/.ready
UI_HOST ?= 127.0.0.1
ENGINE ?= docker
# Install what pyproject.toml asks for, in the versions of the lock: for an optional part, or for the project itself.
INSTALL := python -c 'import subprocess, sys, tomllib; \
  project = tomllib.load(open("pyproject.toml", "rb"))["project"]; parts = project["optional-dependencies"]; \
  asked = project["dependencies"] if not sys.argv[1:] else parts.get(sys.argv[1]) or sys.exit("NAME is one of " + ", ".join(parts)); \
  options = ["--quiet", "--disable-pip-version-check", "--constraint", "requirements.txt"]; \
  sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *options, *asked]))'
SECRETS := detect-secrets-hook --disable-plugin HexHighEntropyString --exclude-lines '^\W*integrity\W{1,4}sha512-[0-9A-Za-z+/]{86}==\W*$$' --exclude-secrets '^(local(-only)?|AGE-SECRET-KEY-1|explain analyze create persistent [a-z ()]+)$$'
KEYS := AGE-SECRET-KEY-(PQ-)?1[0-9A-Za-z]{40}|(secret_access_key|SECRET_ACCESS_KEY) ?[=:] ?[0-9A-Za-z/+]{20}
export PATH := $(abspath $(VENV))/bin:$(PATH)
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help env extra runtime hooks repro test test-all namespaces coverage fuzz kills params lint format secrets audit bench parity stocknet recovery canaries sql book ui remote pull push s3 lock image clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

env: $(READY) ## create .venv from the lock (requirements.txt)
$(READY): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "Python 3.11 to 3.13 is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -c "from fusion_alpha import tracking; tracking.prepare()"
	touch $@

extra: $(READY) ## add what an optional part needs: NAME=cuda (GPU), ray or fuzz
	@$(INSTALL) "$(NAME)"

runtime: $(READY) ## what running needs and nothing for tests or checks (the container's environment)
	@$(INSTALL)

hooks: $(READY) ## check every commit and its message before git takes it
	pre-commit install

repro: $(READY) ## run the whole pipeline on the embedded lab, train a one-minute model too, say where the results are
	dvc repro dvc.yaml minute/dvc.yaml
	@python run_pipeline.py --summary

test: $(READY) ## the tests that every change must pass (minutes, no GPU, no network)
	python -m pytest -n 2 -m "not slow and not gpu and not s3 and not soak"

test-all: $(READY) ## every test, also the slow ones and those that need a GPU or start servers
	python -m pytest -n 2

# Ubuntu from 23.10 on lets nobody but root have them; the setting lasts until the machine restarts.
namespaces: ## allow user namespaces, which the tests of full disks need (changes this machine with sudo; for runners)
	test ! -e /proc/sys/kernel/apparmor_restrict_unprivileged_userns || \
	  sudo sysctl --write kernel.apparmor_restrict_unprivileged_userns=0
	unshare -rm true

coverage: $(READY) ## the tests of `make test`, with the lines and branches that they reach
	python -m pytest -n 2 -m "not slow and not gpu and not s3 and not soak" --cov --cov-report=term --cov-report=html

fuzz: $(READY) ## look for bytes that break a reader, SECONDS=600 each, LANES=1 at a time (TARGET=csv_prices for one); needs extra NAME=fuzz
	PYTHONPATH=.:tests python -m fuzz --seconds $(or $(SECONDS),600) --lanes $(or $(LANES),1) $(TARGET)

kills: $(READY) ## SIGKILL `dvc repro` at KILLS=50 random points (SEED=0), run it again each time, compare every byte
	KILLS=$(or $(KILLS),50) python -m pytest tests/test_faults_pipeline.py -k killed_repro -o log_cli=true --log-cli-level=INFO

params: $(READY) ## compose conf/ into params.yaml
	python -m fusion_alpha.config

lint: $(READY) ## ruff, mypy, params.yaml against conf/, the container and the workflows
	ruff check .
	ruff format --check .
	mypy
	python -m fusion_alpha.config --check
	hadolint Dockerfile
	actionlint

format: $(READY) ## let ruff write its format
	ruff format .
	ruff check --fix .

# History with merges against each parent and files of any bytes as text, or what came by them is not seen; without NUL
# and what is no ASCII, since the searches pass over a file that is no text.
secrets: $(READY) ## look for secrets in every file and in every line that was ever committed
	git ls-files -z | xargs -0 $(SECRETS)
	mkdir -p .cache && git log --all -m --text --patch --no-textconv --no-ext-diff --no-color > .cache/history.raw
	tr -d '\000' < .cache/history.raw | LC_ALL=C tr -c '\n\t -~' '?' > .cache/history.patch && rm .cache/history.raw
	! grep -nE '$(KEYS)' .cache/history.patch
	$(SECRETS) .cache/history.patch

audit: $(READY) ## licences of the lock, then its known vulnerabilities (asks a service on the internet)
	pip-licenses --packages $$(sed -n 's/==.*//p' requirements.txt)
	pip-audit --requirement requirements.txt --disable-pip --no-deps --strict

bench: $(READY) ## measure the kernels beside their peers; appends to metrics/bench.csv
	python -m kernels.bench

parity: $(READY) ## train FusionNet with BICEP's dropout and with torch's, and compare (ten minutes)
	dvc repro kernels/dvc.yaml

stocknet: $(READY) ## every system of the StockNet benchmark on real data (an hour; STOCKNET_ARCHIVE=FILE, else it downloads)
	dvc repro stages/dvc.yaml:stocknet

recovery: $(READY) ## thirty simulated markets: is what was planted found, and nothing else? (ten minutes)
	dvc repro stages/dvc.yaml:lab_recovery

canaries: $(READY) ## would a leak be noticed? time machine, null markets, planted leaks and more (20 minutes)
	dvc repro stages/dvc.yaml:canaries

sql: $(READY) ## ask the tables of all layers in SQL; RUN="query" or RUN=docs/questions.sql, else line by line
	@python -m fusion_alpha.sql $(if $(RUN),"$(RUN)")

book: $(READY) ## build the Nimbus Book (site and PDF) from the results of the last run
	python docs/build.py

ui: $(READY) ## MLflow's comparison of runs, on this machine only
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false PYTHONWARNINGS=ignore mlflow ui --backend-store-uri sqlite:///mlflow.db \
	  --workers 1 --host $(UI_HOST) --uvicorn-opts "--log-level warning"

remote: $(READY) ## does the data remote answer, do the credentials fit? If not, what to do
	@python -m fusion_alpha.remote

pull: $(READY) ## fetch the data and models that the lock names from the remote, as far as somebody pushed them
	@python -m fusion_alpha.remote
	dvc pull --allow-missing

push: $(READY) ## send the data and models that the lock names to the remote
	@python -m fusion_alpha.remote --write
	dvc push

s3: $(READY) ## an S3 server on this machine to try the remote on; it prints how to point DVC at it
	@python -m fusion_alpha.s3_server

image: ## build the container image; ARGS="--build-arg EXTRA=cuda" for a GPU
	$(ENGINE) build $(ARGS) --tag nimbus-fusion .

lock: $(READY) ## refresh requirements.txt from pyproject.toml
	pip-compile --quiet --extra dev --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --no-header --output-file requirements.txt pyproject.toml
	sed -i 's/^torch==\([0-9.]*\)+.*/torch==\1/' requirements.txt  # the version, not the machine's build of it

# Not all of .cache: headlines that Yahoo no longer serves are kept nowhere else.
clean: ## remove the environment and the caches; data, models and experiments stay
	rm -rf $(VENV) .cache/bicep .cache/canaries .cache/embeddings .cache/recovery .cache/train .cache/yahoo/yfinance .mypy_cache .ruff_cache .pytest_cache .hypothesis docs/_build
