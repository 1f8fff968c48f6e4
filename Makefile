# The two commands of the README, and what continuous integration runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help quickstart test slow lint bench
help:
	@echo "make quickstart   build a small corpus, learn three attacks in a row, write the report"
	@echo "make test         run the default test suite"
	@echo "make slow         run the longer tests"
	@echo "make lint         check style, format and types"
	@echo "make bench        run the benchmarks"

quickstart: $(VENV)/installed-core
	$(BIN)/speechcl compare recipes/QuickStart/detection/study.yaml

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "not slow and not gpu"

slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-core
	for script in projector_update import_time engine_overhead method_step \
		cl_step_overhead metrics_report data_read detector_latency \
		online views adapter_forward adapter_audio_conv adapter_swap adapter_kinds \
		osft_init osft_step alignment_search usat_rtf; do \
		$(BIN)/python benchmarks/$$script.py || exit 1; \
	done

$(VENV)/installed-core: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-%: $(VENV)/installed-core
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@
