# One vocabulary for people and CI. Everything is set up on first use in .venv; nothing else is
# needed than Python 3.11 to 3.13, git and make.

PYTHON ?= python3
# `make test PREFECT=3.9.1`: another version than the constraints', in an environment of its own.
VENV := .venv$(if $(PREFECT),-prefect-$(PREFECT))
BIN := $(VENV)/bin

.PHONY: demo serve test check chaos bench plot clean tests/end_to_end tests/flows tests/unit tests/secrets \
	tests/chaos

demo: $(VENV)/installed            ## two nights in a minute; KEEP=1 leaves it running
	@$(BIN)/python -m deployments.demo $(if $(KEEP),--keep) $(if $(ROTATION),--rotation $(ROTATION))

serve: $(VENV)/installed           ## the Journeys API, on PREFECT_API_URL or all by itself
	@$(BIN)/python -m deployments.serve $(if $(PORT),--port $(PORT))

# Each folder in a process of its own: what Prefect keeps for one server must not meet the next.
# Two at a time, the longest first: most of them wait for something most of the time.
FOLDERS := tests/end_to_end tests/flows tests/unit tests/secrets tests/chaos

test: $(VENV)/installed-dev        ## every test; `make tests/unit` runs a part
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target $(FOLDERS)

$(FOLDERS): $(VENV)/installed-dev
	$(BIN)/python -m pytest -q $@

chaos: $(VENV)/installed-dev       ## break everything: N=200 SEED=1 DB=sqlite WORKERS=1 CHAOS=--same-name
	@$(BIN)/python -m tests.chaos --trials $(or $(N),200) --seed $(or $(SEED),1) \
		--db $(or $(DB),sqlite) --workers $(or $(WORKERS),1) $(CHAOS)

# The sandbox judges; benchmarks/README.md says what is measured.
bench: $(VENV)/installed           ## tenants that all fall due at once; N=1000 DB=postgres for one size
	@$(BIN)/python -m benchmarks $(if $(N),--tenants $(N)) $(if $(DB),--db $(DB)) $(BENCH)

plot: $(VENV)/installed-bench      ## docs/stampede.png, of what `make bench` has measured
	$(BIN)/python -m benchmarks.plot

check: $(VENV)/installed-dev       ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:                             ## forget the virtual environments
	rm -rf .venv .venv-prefect-*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/constraints.txt: $(VENV)/bin/python constraints.txt
	sed -e '' $(if $(PREFECT),-e 's/^prefect==.*/prefect==$(PREFECT)/') constraints.txt > $@

$(VENV)/installed: $(VENV)/constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[bench]'
	@touch $@
