# Nothing but Python (3.10 or newer) and make is needed: .venv is created when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
# what pip may install: /dev/null for the newest versions that there are
CONSTRAINTS ?= constraints.txt
READY := $(VENV)/.ready
# what scripts/run/demo.py imports: tensorboard and a progress bar, matplotlib, and what reads and writes its files
DEMO_EXTRAS := extra,plots,scripts

.PHONY: help demo hashed hashes test test-slow test-oldest fuzz lint format bench tables docs docs-serve dist clean

help:
	@echo "make demo       RELAXA2C learns CartPole-v1 (a minute and a half, installation included); writes demo/"
	@echo "make test       the tests (minutes); make test-slow: the long ones"
	@echo "make test-oldest  those that need no extra, with the oldest versions allowed, in .venv-oldest (Python 3.10 or 3.11)"
	@echo "make hashed     all that the tests need, by the hashes of requirements-hashed.txt; make hashes: write that file"
	@echo "make fuzz       damaged files for every reader of files, ten minutes each"
	@echo "make lint       ruff check, ruff format --check, mypy; make format: mend what ruff can"
	@echo "make bench      speed and memory against SB3's A2C"
	@echo "make tables     the tables and figures of README.md and docs/ from the records in scripts/results"
	@echo "make docs       the documentation, into site/index.html; make docs-serve: in a browser, as it is edited"
	@echo "make dist       the sdist and the wheel, into dist/, and that they work where they are installed"

# torch first and pinned: a range that admits a newer release would bring gigabytes of CUDA packages
$(DEMO): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed; set PYTHON=...") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e .[$(DEMO_EXTRAS)]
	@touch $@

$(READY): $(DEMO)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e .[all]
	@touch $@

# what GitHub's tests install: nothing that is not, to the last bit, what requirements-hashed.txt names
hashed:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-hashed.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(DEMO) $(READY)

# after a change of setup.cfg or constraints.txt; the remarks at the file's head stay
hashes: $(READY)
	$(BIN)/python -m pip install --quiet uv
	grep '^#' requirements-hashed.txt > .hashes.partial
	$(BIN)/uv pip compile setup.cfg --extra all -c $(CONSTRAINTS) --universal --python-version 3.10 --generate-hashes \
		--no-annotate --no-header --quiet >> .hashes.partial
	mv .hashes.partial requirements-hashed.txt

demo: $(DEMO)
	$(BIN)/python -m scripts.run.demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# of what needs no extra: with sb3-contrib's oldest version comes a newer stable-baselines3
OLDEST_TESTS := tests/test_a2c_equality.py tests/test_errors.py tests/estimators tests/control_variates \
	tests/algorithm/test_algorithms.py tests/algorithm/test_update.py tests/algorithm/test_collection.py

test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt torch
	.venv-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt -e . pytest pytest-timeout pytest-xdist scipy
	.venv-oldest/bin/python -m pytest -m "not slow" $(OLDEST_TESTS)

fuzz: $(READY)
	SB3_RELAX_FUZZ_SECONDS=600 $(BIN)/python -m pytest tests/fuzz

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m scripts.bench.algorithms

tables: $(READY)
	$(BIN)/python -m scripts.tables
	$(BIN)/python -m scripts.tables.figures

docs: $(READY)
	$(BIN)/mkdocs build --strict

docs-serve: $(READY)
	$(BIN)/mkdocs serve

dist: $(READY)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e .[dist]
	$(BIN)/python -m scripts.dist

clean:
	rm -rf $(VENV) .venv-oldest demo site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
