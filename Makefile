# Everything that a newcomer needs: `make demo` and `make test` set themselves up, once.
PYTHON ?= python3
VENV ?= .venv
MINUTES ?=
NAME ?=
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
STAMP := $(VENV)/.installed
SECONDS_FILE := $(VENV)/.install-seconds
RUN_ENV := SIOCONV_INSTALL_SECONDS=$$(cat $(SECONDS_FILE) 2>/dev/null)

.PHONY: demo test test-all lint audit bench dist docs page page-packages clean

# The stamp is written last: an installation that was cut off is done again, a whole one isn't.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 2; }
	@date +%s > .install-start
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@echo $$(( $$(date +%s) - $$(cat .install-start) )) > $(SECONDS_FILE)
	@rm -f .install-start
	@touch $@

$(VENV)/.installed-dev: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs,tune,eval,export,serve,wandb]'
	@touch $@

demo: $(STAMP)
	@$(RUN_ENV) $(BIN)/sioconv demo $(if $(MINUTES),--minutes $(MINUTES)) $(if $(NAME),--name '$(NAME)')

# One thread a worker: the workers together take all cores.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow'

test-all: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

# Known weaknesses of every package that constraints.txt and the page name. Needs a network, and an environment of its own.
AUDIT := $(VENV)/audit
$(AUDIT)/.installed:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/$(notdir $(BIN))/python -m pip install --quiet pip-audit==2.10.1
	@touch $@

audit: $(AUDIT)/.installed
	$(AUDIT)/$(notdir $(BIN))/python -m pip_audit --requirement constraints.txt --no-deps --disable-pip
	cd page && npm audit --package-lock-only

$(VENV)/.installed-bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.scan
	$(BIN)/python -m benchmarks.tokenizers
	$(BIN)/python -m benchmarks.data

# The wheel is made from the sdist, which so is known to be whole.
dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation

$(VENV)/.installed-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

# The documentation, into site/; a warning is an error. REPOSITORY=https://…/blob/main: where links to files lead.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m scripts.site $(if $(REPOSITORY),--repository '$(REPOSITORY)')

# The page of `sioconv serve` and the one without a server: page/ → src/sioconv/serve/page/ and publish/page/built/. Both
# are committed, so only who changes them, or tests them in a browser, needs node.
page: page-packages
	cd page && npm run check && npm run build

page-packages:
	cd page && npm ci

clean:
	rm -rf $(VENV) page/node_modules build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
