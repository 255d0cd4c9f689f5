# Two commands do everything: `make serve` and `make test`. The rest is for people who work on Aperture.

PYTHON ?= python3
PORT ?= 5006
PROCS ?= 4
PYTEST_ARGS ?=
MINUTES ?= 5
SEED ?= 1
SOAK_ARGS ?=
TEST_JOBS ?= 4
UNIT_TESTS := --ignore tests/integration --ignore tests/browser --ignore tests/containers
# Percent, of lines and branches, that unit tests alone run: two below what was measured, 77. What only processes reach
# is covered by the others.
COVERAGE_FLOOR := 75
BENCH_ARGS ?=
FUZZ_ARGS ?=

EXAMPLES ?= $(wildcard examples/apps/*.py) $(patsubst %/main.py,%,$(wildcard examples/apps/*/main.py))

# The second is where examples/flask_embed.py serves its page from.
ORIGINS := --allow-websocket-origin localhost:$(PORT) --allow-websocket-origin localhost:8000

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help serve test check unit lint format types docs coverage dist bench fuzz fuzz-atheris matrix soak structure clean system-packages

help:
	@echo "make serve    serve examples/ on $(PROCS) workers at http://localhost:$(PORT) (PORT= and PROCS= change that)"
	@echo "make test     run every test: unit, integration, browser (PYTEST_ARGS= goes to pytest, TEST_JOBS=0 runs one at a time)"
	@echo "make lint     ruff, ruff format --check, mypy --strict"
	@echo "make check    lint, types and unit tests: before every commit"
	@echo "make format   format the code and apply ruff's fixes"
	@echo "make types    build the view of the package that type checkers read"
	@echo "make docs     build the pages of docs/ and the API reference into build/docs"
	@echo "make coverage  run the unit tests and print what they leave out; fails below $(COVERAGE_FLOOR) percent"
	@echo "make dist     build the source archive and the wheel into dist"
	@echo "make bench    run the benchmarks (BENCH_ARGS= goes to bench/run.py)"
	@echo "make fuzz     feed damaged input to what reads that of strangers (FUZZ_ARGS=\"heads --inputs 1000000 --seed 7\")"
	@echo "make fuzz-atheris  the same, led by coverage; what takes a new way is kept in tests/fuzz/corpus"
	@echo "make soak     people at work on nodes that fail in every way, for MINUTES=$(MINUTES), drawn from SEED=$(SEED)"
	@echo "make matrix   run tests on other versions of Python, Bokeh and Redis (MATRIX_ARGS=\"--python python3.13\")"
	@echo "make structure  count files, classes, circles and the like of the product's code"
	@echo "make clean    remove the virtual environment and everything built"

serve: $(VENV)/runtime
	@exec $(BIN)/aperture serve --num-procs $(PROCS) --port $(PORT) $(ORIGINS) $(EXAMPLES)

test: system-packages $(VENV)/development
	@exec $(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

check: lint unit

# No process, Redis or browser of their own: these are for every commit, `make test` is for every push.
unit: $(VENV)/development
	@exec $(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --dist loadfile $(UNIT_TESTS) $(PYTEST_ARGS)

lint: $(VENV)/development types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/development
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The package is spread over three folders, which setuptools understands and type checkers do not.
types:
	@rm -rf build/types && mkdir -p build/types/aperture
	@cd build/types/aperture && for part in ../../../shared/*; do \
		case $$part in *__pycache__) ;; *) ln -s $$part . ;; esac; \
	done && ln -s ../../../gateway ../../../worker .

# Broken references and links are errors; tests/test_docs.py does the same.
docs: $(VENV)/development
	@$(BIN)/python -m sphinx -q -W --keep-going docs build/docs
	@echo "build/docs/index.html"

coverage: $(VENV)/development
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest -q --numprocesses $(TEST_JOBS) --dist loadfile $(UNIT_TESTS) $(PYTEST_ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --skip-covered --fail-under $(COVERAGE_FLOOR)

# The wheel is built from the archive: build/ may still hold modules that are gone from the tree.
dist: $(VENV)/development
	@rm -rf dist && mkdir dist
	@$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')" > /dev/null
	@$(PIP) wheel --no-deps --no-build-isolation --no-index --wheel-dir dist dist/*.tar.gz
	@ls dist

bench: $(VENV)/development
	@$(BIN)/python bench/run.py $(BENCH_ARGS)

fuzz: $(VENV)/development
	@cd tests && exec ../$(BIN)/python -m fuzz $(FUZZ_ARGS)

# atheris is nothing that tests or checks need, and has no wheel for every Python.
fuzz-atheris: $(VENV)/development
	@$(PIP) install atheris==3.0.0
	@cd tests && exec ../$(BIN)/python -m fuzz.by_coverage $(FUZZ_ARGS)

# By nodes in network namespaces where this runs as root, else on ports.
soak: $(VENV)/development
	@cd tests && exec ../$(BIN)/python -m soak --minutes $(MINUTES) --seed $(SEED) --keep ../build/soak $(SOAK_ARGS)

matrix: $(VENV)/development
	@cd tests && exec ../$(BIN)/python -m matrix $(MATRIX_ARGS)

structure: $(VENV)/development
	@$(BIN)/python bench/structure.py --walk

clean:
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@command -v $(PYTHON) > /dev/null || { \
		echo "There is no $(PYTHON) here. Install Python 3.11, 3.12, 3.13 or 3.14, or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { \
		echo "Aperture runs on Python 3.11 to 3.14, and $(PYTHON) is another. Name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		$(call apt_install_or_say,$$package); }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment."; exit 1; }

# Stamps: each is renewed when a locked version or the package's own metadata changes, and costs nothing otherwise.
$(VENV)/runtime: requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing Aperture and what it needs into $(VENV)"
	@$(PIP) install -r requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/development: requirements/development.txt requirements/panel.txt requirements/otel.txt $(VENV)/runtime
	@echo "Installing what tests and checks need into $(VENV)"
	@$(PIP) install -r requirements/development.txt
	@touch $@

# The tests start a real Redis server, a real browser and real proxies of their own: no system service is needed. Where a
# Docker engine is, mmdebstrap makes the images that ours begin with.
system-packages:
	@missing=""; \
	command -v redis-server > /dev/null || missing="$$missing redis-server"; \
	command -v chromium > /dev/null || missing="$$missing chromium"; \
	command -v nginx > /dev/null || test -x /usr/sbin/nginx || missing="$$missing nginx"; \
	command -v haproxy > /dev/null || test -x /usr/sbin/haproxy || missing="$$missing haproxy"; \
	command -v apache2 > /dev/null || test -x /usr/sbin/apache2 || missing="$$missing apache2-bin"; \
	command -v caddy > /dev/null || missing="$$missing caddy"; \
	{ command -v prometheus && command -v promtool; } > /dev/null || missing="$$missing prometheus"; \
	test "$$(id -u)" = 0 && docker info > /dev/null 2>&1 && ! command -v mmdebstrap > /dev/null && \
		missing="$$missing mmdebstrap"; \
	test -z "$$missing" || { $(call apt_install_or_say,$$missing); } || exit 1; \
	for service in nginx haproxy caddy prometheus prometheus-node-exporter; do \
		case $$missing in *$${service%-node-exporter}*) \
			{ service $$service stop; update-rc.d $$service disable; } > /dev/null 2>&1 || true ;; \
		esac; \
	done

# $(1) is a list of Debian packages.
define apt_install_or_say
if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	echo "Installing with apt-get:" $(1) && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(1) > /dev/null; \
else \
	echo "Missing on this machine:" $(1); echo "On Debian or Ubuntu: sudo apt-get install" $(1); exit 1; \
fi
endef
