# Every target makes the virtual environment it needs and installs what it uses.
#
# PYTHON chooses the interpreter: `make test PYTHON=python3.12`, or a path. The default one gets
# .venv, any other .venv-<version>, so that two interpreters never share an environment.
# An environment remembers, by an empty file each, which sets of extras are installed in it.

PYTHON ?= python3

# A bare name is found on PATH. A pyenv shim of a version that is not activated refuses to run:
# then the interpreter is taken from pyenv's own folder.
EXE := $(shell $(PYTHON) -c 'import sys; print(sys.executable)' 2>/dev/null || \
         ls "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin/$(PYTHON) 2>/dev/null | tail -n 1)
VERSION := $(if $(EXE),$(shell '$(EXE)' -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'))

VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(basename $(VERSION)))
BIN := $(VENV)/bin
# The stamps carry the interpreter's version: when `python3` becomes another, both are missing.
MADE := $(VENV)/$(VERSION)-made
HAS := $(VENV)/$(VERSION)-has
# What an editable install must be repeated for: it builds the native core.
SOURCES := pyproject.toml setup.py $(wildcard src/tailrace/_core/native/*.[ch])

BUILT := $(VENV)/$(VERSION)-native
WARNINGS := -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers

DEMO_ARGS ?=
PYTEST_ARGS ?= -n 2 --dist worksteal
BENCH_ARGS ?=
FOREIGN_ARGS ?=
FAULTS_ARGS ?=
PACKAGE ?= gather
MUTATE_ARGS ?= --sample 60 --seed 1

# Not run once more on the Python core: what runs on both by itself, what no core has a part in, and
# whole programs that take long and whose parts are tested there.
BOTH := $(addprefix --ignore=tests/,core cpython faults gather typing test_aggregator.py test_build.py \
    test_cli.py test_coming_from_queue.py test_docs.py test_examples.py test_figures.py test_gather.py \
    test_hedging_peers.py test_layers.py test_public_names.py test_readme.py test_reference.py \
    test_tail.py)

SANITIZED := build/sanitized-$(VERSION)
SANITIZE := -fsanitize=address,undefined
# Not the schedules by the ten thousand: a sanitised core finds in few of them what it can find.
SANITIZE_ARGS ?= -n 2 --dist worksteal -k 'native and not fuzz and not machine and not hundred_thousand'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test sanitize lint format typecheck reference bench bench-core bench-tail bench-bounds mutate foreign faults clean

help: ## Say what there is to make
	@echo 'make <target> [PYTHON=python3.12]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

demo: $(HAS)-http,fast ## Serve the talk's last program on 127.0.0.1:8080 (DEMO_ARGS='--seconds 10')
	@$(BIN)/tailrace demo $(DEMO_ARGS)

# On the Python core first, so that the closing lines of the whole suite are the last ones. There
# what is selected by PYTEST_ARGS may be nothing (5).
test: $(BUILT) ## Run the tests (PYTEST_ARGS='-k select'), on both cores
	@echo '== on the Python core: what does not run on both by itself'
	@TAILRACE_CORE=python $(BIN)/python -m pytest -p randomly $(PYTEST_ARGS) $(BOTH) || [ $$? -eq 5 ]
	@echo '== on the native core: the whole suite'
	@TAILRACE_CORE=native $(BIN)/python -m pytest $(PYTEST_ARGS)

# In a folder of its own: the sanitised engine needs its libraries loaded before the interpreter's.
sanitize: $(HAS)-test ## Test the native core under the address and undefined behaviour sanitisers
	@rm -rf $(SANITIZED)
	@mkdir -p $(SANITIZED)
	@cp -R src/tailrace $(SANITIZED)/
	@rm -f $(SANITIZED)/tailrace/_core/native/_engine.*.so
	@TAILRACE_NATIVE=yes LDFLAGS='$(SANITIZE)' \
	    TAILRACE_CFLAGS='$(WARNINGS) $(SANITIZE) -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1' \
	    $(BIN)/python setup.py -q build_ext --force --build-lib $(SANITIZED) --build-temp $(SANITIZED)/temp
	@LD_PRELOAD="$$($${CC:-cc} -print-file-name=libasan.so)" PYTHONMALLOC=malloc \
	    ASAN_OPTIONS=detect_leaks=0:log_path=$(CURDIR)/$(SANITIZED)/report \
	    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=$(CURDIR)/$(SANITIZED)/report \
	    PYTHONPATH=$(SANITIZED) TAILRACE_CORE=native $(BIN)/python -m pytest tests/core $(SANITIZE_ARGS) \
	    || { cat $(SANITIZED)/report* 2>/dev/null; exit 1; }

lint: $(HAS)-dev ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(HAS)-dev ## Mend what `lint` can mend by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: $(HAS)-dev,test ## Check the types with mypy and pyright, both strict
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

reference: $(HAS)-test ## Write docs/reference.md anew, of the docstrings
	@$(BIN)/python tools/reference.py

# Those of which docs/performance.md has figures write them down; the page is then rewritten.
FIGURES := build/figures
RECORDED := relay talk_pipeline spawn selects threads sieve scale talk_http

bench: $(HAS)-bench ## Compare with Go and others on this machine, and write it into docs/performance.md
	@rm -rf $(FIGURES); mkdir -p $(FIGURES)
	@set -e; for file in $$(grep -l __main__ benchmarks/*.py | grep -v -e /core.py -e /bounds.py); do \
	    echo "== $$file"; name=$$(basename $$file .py); \
	    case ' $(RECORDED) ' in *" $$name "*) json="--json $(FIGURES)/$$name.json";; *) json=;; esac; \
	    $(BIN)/python $$file $$json $(BENCH_ARGS); done
	@$(BIN)/python tools/figures.py $(FIGURES)/*.json

bench-core: $(HAS)-bench ## What the core's goals are measured by, and whether they are met; likewise
	@rm -rf $(FIGURES)
	@$(BIN)/python benchmarks/core.py --json $(FIGURES) $(BENCH_ARGS)
	@$(BIN)/python tools/figures.py $(FIGURES)/*.json

bench-bounds: $(HAS)-bench ## What hostile HTTP clients can take, and whether that is within the limits
	@$(BIN)/python benchmarks/bounds.py $(BENCH_ARGS)

bench-tail: $(HAS)-bench ## Simulate Replicas and Hedged, and draw the pictures of the docs
	@$(BIN)/python -m benchmarks.tail --plots docs/img $(BENCH_ARGS)

# PACKAGE is a package below src/tailrace; MUTATE_ARGS='--sample 0' tries every mutant.
mutate: $(BUILT) $(HAS)-mutate ## Change lines of PACKAGE=gather one at a time: does a test notice?
	@TAILRACE_CORE=native $(BIN)/python tools/mutate.py $(PACKAGE) $(MUTATE_ARGS)

# Downloads and runs the projects' own tests, as far as they can be had; no part of CI.
foreign: $(BUILT) ## Run other projects' tests on actors (FOREIGN_ARGS='--seconds 300 anyio tornado')
	@$(BIN)/python tools/foreign.py $(FOREIGN_ARGS)

faults: $(BUILT) ## Kill real processes under load: is each acknowledged row there? (FAULTS_ARGS='--only kill --runs 20')
	@$(BIN)/python -m faults $(FAULTS_ARGS)

clean: ## Remove the environments, caches and everything built
	@rm -rf .venv .venv-* build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(MADE):
	@test -n '$(EXE)' || { \
	    echo "error: $(PYTHON) does not run; give one that does: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@'$(EXE)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: tailrace needs Python 3.11 or later; $(EXE) is $(VERSION):" \
	         "make PYTHON=python3.12" >&2; exit 1; }
	@echo "$(VENV): new environment of $(EXE)"
	@'$(EXE)' -m venv --clear $(VENV)
	@touch $@

$(HAS)-%: $(SOURCES) | $(MADE)
	@echo "$(VENV): installing tailrace[$*]"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[$*]'
	@touch '$@'

# By itself and by force, as an installation leaves an engine alone that is newer than its sources:
# what is tested must be there, and have compiled without a warning.
$(BUILT): $(SOURCES) | $(HAS)-test
	@echo "$(VENV): building the native core"
	@TAILRACE_NATIVE=yes TAILRACE_CFLAGS='$(WARNINGS)' $(BIN)/python setup.py -q build_ext --inplace --force
	@touch '$@'
