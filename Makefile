# make help lists the targets. Everything happens in .venv/ and .demo/; only distribution packages are installed outside.
VENV ?= .venv
RUN = $(VENV)/bin/python
SEEDS ?= 0..299
KIND ?= mesh
# Tests that start nothing and wait for nothing real: they share the cores. All others have the machine to themselves.
PURE = tests/house tests/unit tests/fuzz
# One line per package in scripts/packages.txt, comments off.
PACKAGES = $(shell sed 's/#.*//' scripts/packages.txt)

# A target that is stopped in the middle stops what it started: Ctrl-C reaches every child, and make waits for them.
.PHONY: help venv packages lint check test sim demo demo-down bench format clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

venv: ## the virtual environment with everything that tests need
	@scripts/venv dev $(VENV)

packages: ## the distribution's packages that tests need (root or sudo; missing ones only)
	@scripts/packages $(PACKAGES)

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check: lint ## the inner loop, under 90 s: lint, types, house rules, unit tests
	$(RUN) -m pytest -q -n auto --dist loadfile tests/house tests/unit tests/fuzz/test_corpus.py

test: venv ## everything: check, contracts, end to end, test machines, molecule
	@scripts/packages $(PACKAGES) || echo "going on without: the tests that need them are skipped, and named at the end" >&2
	@$(MAKE) --no-print-directory lint
	$(RUN) -m pytest -q -n auto --dist loadfile $(PURE)
	PATH="$(abspath $(VENV))/bin:$$PATH" $(RUN) -m pytest tests $(PURE:%=--ignore=%) --durations 20

demo: ## a mesh of three agents on this machine, with pods on it
	@scripts/venv run $(VENV)
	@$(RUN) examples/local/demo.py up

demo-down: ## ends the demo and leaves nothing behind
	@scripts/venv run $(VENV)
	@$(RUN) examples/local/demo.py down

sim: venv ## many simulated meshes under faults: make sim SEEDS=0..299 KIND=mesh (or scheduling)
	$(RUN) -m simulator run --seeds $(SEEDS) --kind $(KIND)

bench: venv ## every benchmark, each beside a peer's or the physical limit's figure
	@for file in bench/[a-z]*.py; do echo "== $$file"; $(RUN) "$$file" || exit 1; done

format: venv ## lets ruff mend style and layout
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## removes what was built here (not the demo: make demo-down)
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
