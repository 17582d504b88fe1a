# One-word targets. `make serve` and `make test` do their own set-up.
PYTHON ?= python3
HOST   ?= 127.0.0.1
PORT   ?= 8000
MODEL  ?=
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

.PHONY: help env dev serve chat test unit parity test-slow types lint contracts format docs lock bench clean native-test native-asan native-tsan native-arm

help:
	@echo "make serve     start the bundled model on http://$(HOST):$(PORT)   (PORT=9000 for another port)"
	@echo "make chat      talk to it in the terminal"
	@echo "make test      everything that CI runs: lint, types, contracts, tests"
	@echo "make env       only create $(VENV) with what serving needs   (make dev: with what tests need)"
	@echo "make format    format the code     make docs    refresh the generated pages     make bench   speed here"
	@echo "make lock      refresh the pinned versions in requirements/"

env: $(VENV)/.runtime
dev: $(VENV)/.dev

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "deepground needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make env PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.packages: requirements/runtime.txt | $(VENV)/pyvenv.cfg
	@echo "Installing pinned packages (a few minutes the first time) ..."
	@$(PIP) install -r requirements/runtime.txt
	@touch $@

$(VENV)/.runtime: $(VENV)/.packages pyproject.toml CMakeLists.txt $(shell find src/deepground/kernels/csrc -type f)
	@command -v $(or $(CXX),c++) >/dev/null || \
		{ echo "deepground's kernels are compiled here and need a C++20 compiler. On Debian or Ubuntu: sudo apt install g++"; exit 1; }
	@echo "Compiling the native kernels (about a minute) ..."
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Installing what the tests need ..."
	@$(PIP) install -r requirements/dev.txt
	@touch $@

serve: env
	@$(BIN)/deepground serve $(MODEL) --host $(HOST) --port $(PORT)

chat: env
	@$(BIN)/deepground chat $(MODEL)

test: lint types contracts unit

unit: dev
	$(PYTEST) -m "not slow and not gpu"

parity: dev
	$(PYTEST) tests/parity -s

test-slow: dev
	$(PYTEST) -m slow

types: dev
	$(BIN)/mypy

lint: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

contracts: dev
	$(BIN)/lint-imports

format: dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: dev
	$(BIN)/python -m typer deepground.cli utils docs --name deepground --output docs/reference/cli.md

bench: env
	$(BIN)/deepground bench $(MODEL)

# torch's local version (+cpu) names a build, not a release: pinned without it.
lock:
	$(PIP) install pip-tools
	$(BIN)/pip-compile $(LOCK) --extra install --extra trip -o requirements/runtime.txt pyproject.toml
	$(BIN)/pip-compile $(LOCK) --extra install --extra train --extra bench --extra trip --extra distributed --extra dev -o requirements/dev.txt pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+.*/\1/' requirements/runtime.txt requirements/dev.txt
LOCK := --quiet --upgrade --strip-extras --allow-unsafe --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

# The kernels' own tests (src/deepground/kernels/csrc/tests), built apart from the package: plain, with sanitizers,
# and for ARM. --trap runs AMX and AVX512_BF16 code as compiled on processors without (csrc/tests/trap.h).
CMAKE_TESTS = PATH="$(CURDIR)/$(BIN):$$PATH" cmake -G Ninja -DDEEPGROUND_TESTS=ON -S . -B build/$@
BUILD_TESTS = PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/$@ --target kernel_tests

native-test: $(VENV)/.packages
	@$(CMAKE_TESTS) >/dev/null && $(BUILD_TESTS)
	build/$@/kernel_tests --trap

native-asan: $(VENV)/.packages
	@$(CMAKE_TESTS) -DDEEPGROUND_SANITIZE=address,undefined >/dev/null && $(BUILD_TESTS)
	build/$@/kernel_tests

native-tsan: $(VENV)/.packages
	@$(CMAKE_TESTS) -DDEEPGROUND_SANITIZE=thread >/dev/null && $(BUILD_TESTS)
	build/$@/kernel_tests --pool

native-arm: $(VENV)/.packages
	@$(CMAKE_TESTS) -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake >/dev/null && $(BUILD_TESTS)
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/$@/kernel_tests

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
