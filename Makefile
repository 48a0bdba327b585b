# `make` lists the targets. They have no variables except PY. Settings are options of `.venv/bin/smp`.

PYTHON := .venv/bin/python
READY := .venv/installed
PIP := -m pip install --quiet --disable-pip-version-check
PYTEST := -m pytest -q -n auto --dist loadfile --no-loadscope-reorder
# PY=python3.12 selects the Python of .venv. Recipes read it as a variable of the shell, which runs no part
# of it, and $(value) keeps make from expanding it.
NEW_ENOUGH := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
ifeq ($(origin PY),undefined)
PY := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo $$p; break; }; done)
else
override PY := $(value PY)
endif
export PY

UNKNOWN := $(foreach name,$(filter-out PY,$(.VARIABLES)),$(if $(filter command,$(origin $(name))),$(name)))
ifneq ($(strip $(UNKNOWN)),)
COMMAND := $(if $(filter bench,$(MAKECMDGOALS)),python -m benchmarks,smp $(or $(filter sweep,$(MAKECMDGOALS)),run))
$(error unknown variable $(foreach name,$(UNKNOWN),$(name)=$(value $(name))): settings are options of \
  .venv/bin/$(COMMAND), see .venv/bin/$(COMMAND) --help)
endif

.PHONY: help run bench test test-newest test-colab test-browser test-openvino test-recovery test-inputs \
  fuzz fuzz-guided mutants audit notebooks check table pages lab lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile
	@echo "Everything else: .venv/bin/smp --help"

# A long recipe replaces its shell (exec), so a signal that ends make also ends the recipe.
run: $(READY)  ## run the three notebooks, one after another, and print the results
	@$(PYTHON) tools/build_notebooks.py --check || echo "(the notebooks run unchanged;" \
	  "make notebooks would replace the changes in them)" >&2
	@exec .venv/bin/smp run

bench: $(READY)  ## measure speed and memory and compare with plain implementations of the same work
	@exec $(PYTHON) -m benchmarks

test: check  ## check, then run the tests
	@exec env OMP_NUM_THREADS=1 $(PYTHON) $(PYTEST)

test-newest:  ## run the tests in .venv-newest, with the newest versions that pyproject.toml allows
	@"$$PY" -m venv --clear .venv-newest
	@.venv-newest/bin/python $(PIP) --editable ".[dev,embedded,notebooks,onnx,openvino]"
	@exec env OMP_NUM_THREADS=1 .venv-newest/bin/python $(PYTEST)

test-colab: $(READY) .venv-colab/installed  ## run the notebooks with Colab's versions, one also after a kill
	@exec env OMP_NUM_THREADS=1 $(PYTHON) tools/colab.py

test-browser: $(READY)  ## test the notebooks in headless Chromium (not part of test)
	@exec $(PYTHON) tools/browser.py

test-openvino: $(READY)  ## install openvino and nncf, and test the formats of an export
	@$(PYTHON) -m pip install --quiet --requirement tools/openvino.txt
	@exec env OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q tests/task

test-recovery: $(READY)  ## kill, stop and harm small runs 760 times, and start four of one name 100 times
	@$(PYTHON) tools/recovery.py
	@exec env SMP_RECOVERY=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q tests/long/test_interrupted_run.py

test-inputs: $(READY)  ## measure each bad input: one line, 1 s of CPU time, 100 MB, nothing written
	@exec env OMP_NUM_THREADS=1 $(PYTHON) -W ignore tools/bad_inputs.py

fuzz: $(READY)  ## damage input files for four minutes and check that errors are one line
	@exec $(PYTHON) -W ignore tools/fuzz.py --minutes 4

fuzz-guided: $(READY) .venv-fuzz/installed  ## two CPU hours for each reader, with inputs that reach new code
	@for reader in $$($(PYTHON) tools/fuzz.py --list); do .venv-fuzz/bin/python -W ignore \
	  tools/fuzz_guided.py $$reader --minutes 120 --corpus .venv-fuzz/corpus || exit 1; done

audit: $(READY) .venv-audit/installed  ## look up known vulnerabilities of the versions in requirements.lock
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
	  --requirement requirements.lock --requirement requirements.txt 2> .venv-audit/log \
	  || { tail -n 1 .venv-audit/log >&2; echo "audit: not clean: a version is vulnerable, or pypi.org" \
	  "did not answer for it (see above)" >&2; exit 1; }

mutants: $(READY) .venv-mutants/installed  ## change the code on purpose and list what no test notices
	@exec env OMP_NUM_THREADS=1 .venv-mutants/bin/python tools/mutants.py

notebooks: $(READY)  ## build the three .ipynb from notebooks/ and smp/
	@exec $(PYTHON) tools/build_notebooks.py

check: $(READY)  ## lint, types, imports of the rooms, notebooks up to date
	@exec $(PYTHON) -m ruff check --quiet
	@exec $(PYTHON) tools/build_notebooks.py --check
	@$(PYTHON) .venv/bin/lint-imports --no-logo > .venv/imports.log || { cat .venv/imports.log >&2; exit 1; }
	@exec $(PYTHON) -m mypy --no-error-summary

table: $(READY)  ## compute the tables of the reference results and of the README
	@exec .venv/bin/smp table --reference

pages: $(READY)  ## export the executed notebooks to results/pages/, as self-contained HTML
	@exec $(PYTHON) tools/pages.py

lab: $(READY)  ## open JupyterLab in this folder
	@exec $(PYTHON) -m jupyterlab

lock: $(READY)  ## compute requirements.lock from requirements.txt
	@printf 'torch\nsentence-transformers\n' > .venv/excludes
	@exec .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --excludes .venv/excludes --custom-compile-command "make lock" requirements.txt -o requirements.lock

clean:  ## remove the environments, caches and copies of failed notebooks, but no results
	@rm -rf .venv .venv-newest .venv-colab .venv-mutants .venv-fuzz .venv-audit mutants .pytest_cache .ruff_cache .mypy_cache \
	  .import_linter_cache .hypothesis build dist
	@find . -name .git -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune \
	  -exec rm -rf {} +
	@find . -name .git -prune -o -name '*.failed.ipynb' -exec rm -f {} +

# The file is written last, so an interrupted installation starts again.
$(READY): requirements.lock
	@"$$PY" -c '$(NEW_ENOUGH)' 2>/dev/null \
	  || { echo "$${PY:-python3} is not a Python 3.11 or newer with its venv module: install one" \
	  "(Debian, Ubuntu: apt install python3-venv) or name one with make PY=/path/to/python" >&2; \
	  exit 1; }
	@echo "Creating .venv with $$PY and installing requirements.lock and torch: 3 to 10 minutes, once."
	@"$$PY" -m venv .venv
	@$(PYTHON) $(PIP) --require-hashes --no-deps --requirement requirements.lock
	@$(PYTHON) $(PIP) $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)
	@$(PYTHON) $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv-colab/installed: tools/colab.txt
	@echo "Making .venv-colab and installing tools/colab.txt: 3 to 10 minutes and 5 GB, once."
	@for p in "$$PY" python3.13 "$$HOME"/.pyenv/versions/3.13.*/bin/python; do \
	  "$$p" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null \
	    && exec "$$p" -m venv --clear .venv-colab; done; \
	  echo "Colab has Python 3.13: install it, or name one with make PY=/path/to/python3.13" >&2; exit 1
	@.venv-colab/bin/python $(PIP) --requirement tools/colab.txt
	@touch $@

# The packages are those of tools/….txt and of .venv. tools/mutants.py imports the copy of smp in mutants/.
OWN := .venv-mutants/installed .venv-fuzz/installed .venv-audit/installed
$(OWN): .venv-%/installed: tools/%.txt $(READY)
	@$(PYTHON) -m venv --clear .venv-$*
	@$(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.venv-$*/bin/python \
	  -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_venv.pth"
	@.venv-$*/bin/python $(PIP) --requirement tools/$*.txt
	@touch $@
