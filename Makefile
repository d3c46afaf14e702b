# The commands of everyday work. Builds live in build/<preset>; ninja re-runs CMake when needed.
.DEFAULT_GOAL := help
.PHONY: help setup build run install test test-fast bench reproduce-router format lint lint-structure asan tsan clean
.DELETE_ON_ERROR:

JOBS ?= $(shell nproc)
RELEASE := build/release
PREFIX ?= /usr/local
CXX_FILES = git ls-files -z '*.cc' '*.h' '*.c'

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

setup:  ## Install the Debian packages (silent when none is missing).
	@tools/setup.sh

run: setup $(RELEASE)/build.ninja  ## Build the program and ask the bundled model about a 128K-token document.
	@cmake --build $(RELEASE) --target sluice
	@tools/run_demo.sh

build: setup $(RELEASE)/build.ninja  ## Build everything.
	@cmake --build $(RELEASE)

install: setup $(RELEASE)/build.ninja  ## Build and install program, library and headers: PREFIX=/usr/local.
	@cmake --build $(RELEASE) --target sluice sluice_shared
	@cmake --install $(RELEASE) --prefix "$(abspath $(PREFIX))"

test: build  ## Build and run every test, end-to-end ones included.
	@ctest --preset release -j $(JOBS)

test-fast: build  ## Build and run the unit tests only (under a minute).
	@ctest --preset release -L fast -j $(JOBS)

bench: build  ## Build and run the benchmarks of bench/.
	@set -e; for bench in $(RELEASE)/bench/*_bench; do echo "== $$(basename $$bench)"; $$bench; done

reproduce-router: build  ## Train and measure the models of docs/router.md: DATA=folder with train/ and eval/.
	@test -n "$(DATA)" || { echo "make reproduce-router needs DATA=FOLDER, a folder with train/ and eval/" >&2; exit 2; }
	@tools/reproduce_router.py --data "$(DATA)"

format:  ## Format all C++ sources in place.
	@tools/setup.sh dev
	@$(CXX_FILES) | xargs -0 clang-format -i

lint: lint-structure  ## Check folder order, sizes and formatting.
	@tools/setup.sh dev
	@$(CXX_FILES) | xargs -0 clang-format --dry-run -Werror

lint-structure: setup
	@python3 tools/check_structure_test.py
	@python3 tools/check_structure.py

asan: setup build/asan/build.ninja  ## Run the unit tests under the address and undefined-behaviour sanitizers.
	@cmake --build build/asan
	@ctest --preset asan -j $(JOBS)

tsan: setup build/tsan/build.ninja  ## Run the unit tests under the thread sanitizer.
	@cmake --build build/tsan
	@ctest --preset tsan -j $(JOBS)

clean:  ## Remove the builds of this Makefile.
	@rm -rf build/release build/asan build/tsan

build/%/build.ninja: | setup
	@cmake --preset $*
