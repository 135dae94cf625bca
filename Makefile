# One vocabulary for people and CI. Everything is set up on first use in .venv; nothing else is
# needed than Python 3.11 to 3.13, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test bench plot check clean tests/unit tests/flows tests/secrets tests/end_to_end

demo: $(VENV)/installed            ## two nights in a minute; KEEP=1 leaves it running
	@$(BIN)/python -m deployments.demo $(if $(KEEP),--keep) $(if $(ROTATION),--rotation $(ROTATION))

# Each folder in a process of its own: what Prefect keeps for one server must not meet the next.
# Two at a time; but the end-to-end tests, which look at the clock, alone.
test: $(VENV)/installed-dev        ## every test; `make tests/unit` runs a part
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target tests/flows tests/unit tests/secrets
	@$(MAKE) --no-print-directory tests/end_to_end

tests/unit tests/flows tests/secrets tests/end_to_end: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q $@

# The sandbox judges; benchmarks/README.md says what is measured.
bench: $(VENV)/installed           ## tenants that all fall due at once; N=1000 DB=postgres for one size
	@$(BIN)/python -m benchmarks $(if $(N),--tenants $(N)) $(if $(DB),--db $(DB)) $(BENCH)

plot: $(VENV)/installed-bench      ## docs/stampede.png, of what `make bench` has measured
	$(BIN)/python -m benchmarks.plot

check: $(VENV)/installed-dev       ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:                             ## forget the virtual environment
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@
