# The commands that people use are the commands that CI runs. Each is a short script in scripts/.
#
# `make test STRICT=1` and `make run PYTHON=python3.12` work as they stand: make hands variables from its command
# line on to the scripts.

.DEFAULT_GOAL := help
.PHONY: help run install test check chaos soak bench guard format openapi sbom lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  PYTHON=python3.12  another interpreter, 3.11 or newer      make run PYTHON=python3.12'
	@echo '  STRICT=1           a test that would be skipped fails      make test STRICT=1'
	@echo '  ARGS="…"           more arguments for run, test, bench …   make test ARGS="-k signing --no-cov"'

run: install  ## start the sandbox: gateway, QuantaPay simulator and Valkey, no account needed
	.venv/bin/quantapay-gateway sandbox $(ARGS)

install:  ## create .venv with everything in it
	@scripts/install

test: install  ## run the whole suite, with coverage
	scripts/test $(ARGS)

check: install  ## formatter, linter, types, import rules, dependencies, specification drift
	scripts/check

chaos: install  ## break things at random for five minutes (CHAOS_SECONDS=300, CHAOS_SEED=…)
	scripts/chaos $(ARGS)

soak: install  ## ten minutes of load with faults: memory, descriptors and tasks must stay flat (SOAK_SECONDS=600)
	scripts/soak $(ARGS)

bench: install  ## what a request costs, beside FastAPI, httpx and nginx; writes docs/performance.md (ARGS=--help)
	scripts/bench $(ARGS)

guard: install  ## fail if a request takes more instructions than it may; needs valgrind (ARGS=--measure: new bounds)
	scripts/guard $(ARGS)

format: install  ## format the code and mend what the linter can
	scripts/format

sbom: install  ## write the bill of materials of what is shipped
	scripts/sbom $(ARGS)

openapi: install  ## write openapi/openapi.yaml from the code
	scripts/openapi

lock:  ## write the lock files from pyproject.toml; ARGS=--upgrade takes the newest versions
	scripts/lock $(ARGS)

clean:  ## remove .venv and everything else that these commands made
	scripts/clean
