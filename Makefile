# Everything runs in .venv/, which `make setup` fills; each target sets it up by itself and is quick the second time.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test sanitize lint format bench gpu-check docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## create .venv/ with everything (a few minutes the first time)

$(READY): pyproject.toml setup.py scripts/find_python.sh
	@python=$$(scripts/find_python.sh) || exit 1; \
	echo "setup: creating $(VENV)/ with $$($$python --version) (PyTorch and friends, several GB, a few minutes)"; \
	test -x $(PY) || $$python -m venv $(VENV)
	@$(PY) -m pip install --quiet --upgrade "pip>=24" "setuptools>=77" wheel
	@echo "setup: installing snn_sparse and its tools"
	@SNN_SPARSE_BUILD=0 $(PY) -m pip install --quiet --no-build-isolation -e ".[dev]"
	@echo "setup: compiling the C++ operators (two minutes)"  # only now: they need the torch just installed
	@$(PY) setup.py --quiet build_ext --inplace
	@touch $@
	@echo "setup: done"

demo: setup ## all searches and the random control on digits, in minutes; ends in a table and a report
	@echo "demo: four searches and a control on 8x8 digits, two seeds each; under two minutes on two cores"
	@$(PY) -m snn_sparse.cli demo --out runs/demo

test: setup ## the test suite
	@echo "test: running the test suite"
	@$(PY) -m pytest tests

SANITIZED := build/sanitize/_C.so
OPERATOR_TESTS := $(addprefix tests/ops/test_,sparse_conv.py sparse_conv_errors.py lanes.py fused_neuron.py)
# Preloaded into Python alone, libstdc++ beside it or the first C++ exception fails. Python itself leaks.
PRELOAD = $(foreach name,asan stdc++,$(shell $(CXX) -print-file-name=lib$(name).so))

sanitize: setup ## the operator tests under address and undefined-behaviour sanitizers (ten minutes at first)
	@echo "sanitize: building $(SANITIZED)"
	@CXX="$(CXX)" $(PY) csrc/build.py $(SANITIZED) --sanitize
	@echo "sanitize: running the operator tests; the first finding ends them"
	@SNN_SPARSE_LIBRARY=$(CURDIR)/$(SANITIZED) EXAMPLES=$${EXAMPLES:-15} LD_PRELOAD="$(PRELOAD)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:abort_on_error=1 \
	$(PY) -m pytest --capture=sys -x $(OPERATOR_TESTS)

lint: setup ## ruff and mypy
	@echo "lint: ruff check, ruff format, mypy"
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: setup ## let ruff rewrite the code
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: setup ## time the operators and the training step on this machine
	@$(PY) -m benchmarks

gpu-check: setup ## on an NVIDIA GPU: tests, memory and race checker, benchmarks; within 8 minutes
	@$(PY) -m benchmarks.gpu_check

docs: setup ## the reference of all public names as HTML, in build/docs/
	@$(PY) -m pdoc -o build/docs snn_sparse 2> >(grep -v "^Warn" >&2)
	@echo "docs: build/docs/index.html"

clean: ## remove what was built, keep runs/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
