# make demo: the whole story on the built-in data · make test: every test · make lint: ruff and mypy
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIN := -c requirements/constraints.txt
comma := ,
# Processes that share the tests; 0 runs them in one, which a debugger needs.
WORKERS ?= 2
# make zoo: .venv-zoo/bin/python has mmpretrain too, see make test-zoo
ZOO_PYTHON ?= $(BIN)/python
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help demo test test-quick test-zoo counts docs matrix mutate zoo lint env
help:
	@echo 'make demo         train a teacher, a student, and the distilled student; print the table (4 to 8 minutes on 2 cores)'
	@echo 'make test         every test (9 minutes on 2 cores)'
	@echo 'make test-quick   the quick tier (3 minutes)'
	@echo 'make test-zoo     the tests that need mmpretrain and timm, in an environment of their own (5.5 GB, 5 minutes)'
	@echo 'make counts       attack mmkd and write into docs/robustness.md what was found (15 minutes)'
	@echo 'make docs         the documentation, into build/docs/index.html (under a minute; Python 3.11 or newer)'
	@echo 'make matrix       other Pythons and torches: install the wheel, test, train; the table of docs/get_started.md'
	@echo 'make mutate       put faults into a copy of mmkd: every one must be caught by a quick test (6 minutes)'
	@echo 'make zoo          every architecture as student and as teacher; writes docs/architectures.md (30 minutes)'
	@echo 'make lint         ruff and mypy'
	@echo 'make env          only create $(VENV), with the tests'\'' needs'

demo: $(VENV)/.installed-run
	$(BIN)/python tools/demo.py

test: $(VENV)/.installed-test
	$(PYTEST) $(PYTEST_ARGS)

test-quick: $(VENV)/.installed-test
	$(PYTEST) -m 'not slow' $(PYTEST_ARGS)

test-zoo: .venv-zoo/.installed
	.venv-zoo/bin/python -m pytest -m zoo $(PYTEST_ARGS) tests/zoo

counts: $(VENV)/.installed-test
	$(PYTEST) -m 'fault or hostile_file or bad_input' --counts=docs/robustness.md $(PYTEST_ARGS)

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -q -n -W --keep-going -c docs -d build/doctrees . build/docs

# make matrix ARGS='--only py3.11-torch2.6.0 --again'
matrix: $(VENV)/.installed-test
	$(BIN)/python tests/matrix.py $(ARGS)

zoo: $(VENV)/.installed-test
	$(ZOO_PYTHON) -m pytest -n $(WORKERS) --every-architecture tests/architectures/test_points_of_the_zoo.py
	$(ZOO_PYTHON) tests/architectures/table.py --workers $(WORKERS) $(ZOO_ARGS)

mutate: $(VENV)/.installed-test
	WORKERS=$(WORKERS) $(BIN)/python tests/mutations.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

env: $(VENV)/.installed-test

# .installed-run, .installed-test, .installed-dev: mmkd in editable mode with the onedl line and that extra; 'run' needs
# no other
$(VENV)/.installed-%: $(VENV)/.created setup.py requirements/constraints.txt
	$(BIN)/pip install --no-compile --no-build-isolation $(PIN) -e '.[onedl$(if $(filter run,$*),,$(comma)$*)]'
	@touch $@

# torch and torchvision first, of one line: the rest must not move them
.venv-zoo/.installed: setup.py requirements/constraints.txt requirements/zoo.txt
	$(PYTHON) -m venv .venv-zoo
	grep -v '^torch==' requirements/constraints.txt > .venv-zoo/constraints.txt
	.venv-zoo/bin/pip install --no-compile -r requirements/zoo.txt -c .venv-zoo/constraints.txt setuptools
	.venv-zoo/bin/pip install --no-compile --no-build-isolation -c .venv-zoo/constraints.txt -e '.[onedl,test]'
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "mmkd needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>/dev/null || echo missing)." \
	    'Mend: make PYTHON=/path/to/python3.11 …'; exit 1; }
	@echo 'Creating $(VENV): 1.5 GB, one to two minutes.'
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON)' cannot create environments. Mend on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/pip install $(PIN) setuptools  # the build runs without isolation, so that it fetches nothing twice
	@touch $@
