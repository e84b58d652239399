# `make` or `make help` lists the targets. Only Python 3.11+ and make are needed.
PYTHON ?= python3
BIN = .venv/bin
MAKEFLAGS += --no-print-directory

.PHONY: help demo test check format test-matrix bench-smoke mutants fuzz fuzz-atheris chaos needless killed schema bench bench-quick soak reference clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pgqueue needs Python 3.11 or newer: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@echo "Installing what is needed into .venv (once)"
	@$(PYTHON) -m venv .venv || \
	  { echo "no venv module: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/ready ## Run the example shop: orders, workers, failures, dead letters
	@$(BIN)/python -m examples.shop.demo

test: .venv/ready ## Run all tests, on an embedded PostgreSQL or on PGQUEUE_DSN
	@$(BIN)/python -m pytest -n 3 --dist worksteal

check: .venv/ready ## Formatting, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports

format: .venv/ready ## Format the code and mend what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

test-matrix: .venv/ready ## Run all tests on every PostgreSQL (14 to 18) and every Python (3.11 on) at hand
	@$(BIN)/python -m tests.matrix

bench: .venv/ready ## Measure everything beside the peers, an hour or more, and write docs/benchmarks.md
	@$(BIN)/python -m benchmarks all --scale full
	@$(BIN)/python -m benchmarks report

bench-quick: .venv/ready ## Every scenario once with small sizes, a few minutes
	@$(BIN)/python -m benchmarks all --scale quick

bench-smoke: .venv/ready ## Drain rate of one worker beside bare SQL
	@$(BIN)/python -m benchmarks.smoke --json

mutants: .venv/ready ## Take each guard out of the SQL in turn: some test must fail
	@$(BIN)/python -m tests.mutants

fuzz: .venv/ready ## The state machines and the fuzz tests with 20,000 examples each (hours)
	@TESTS_EXAMPLES=20000 $(BIN)/python -m pytest tests/model/test_machine.py tests/model/test_flowing.py tests/model/test_limiting.py tests/fuzz --timeout 0

fuzz-atheris: .venv/ready ## Coverage-guided fuzzing of what reads text, FUZZ_SECONDS (60); Linux
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt atheris
	@mkdir -p build
	@$(BIN)/python -m tests.fuzz.guided -artifact_prefix=build/ -max_total_time=$(or $(FUZZ_SECONDS),60)

chaos: .venv/ready ## Ten minutes of load while workers, server and network break
	@$(BIN)/python -m tests.chaos --minutes 10 --json

needless: .venv/ready ## Five minutes of load and operators with nothing broken: no run, crash or outcome may need an excuse
	@$(BIN)/python -m tests.chaos --calm 300 --faults 0 --json

killed: .venv/ready ## Kill a worker at each message that a job with steps sends, one run each (minutes)
	@TESTS_KILL_EVERY=1 $(BIN)/python -m pytest -n 3 tests/steps/test_killed.py

soak: .venv/ready ## One worker under load for five minutes: nothing may grow
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),5)

schema: .venv/ready ## Write migrations/schema.sql anew
	@$(BIN)/python -m tests.schema_page

reference: .venv/ready ## Write docs/reference/ anew
	@$(BIN)/python -m tests.reference_pages

clean: ## Remove the virtual environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
