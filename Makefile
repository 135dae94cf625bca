# One vocabulary for people and CI. Everything is set up on first use in .venv; nothing else is
# needed than Python 3.11 to 3.13, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check clean

demo: $(VENV)/installed            ## two nights in a minute; KEEP=1 leaves it running
	@$(BIN)/python -m deployments.demo $(if $(KEEP),--keep) $(if $(ROTATION),--rotation $(ROTATION))

# Each folder in a process of its own: what Prefect keeps for one server must not meet the next.
TESTS := tests/unit tests/flows tests/secrets tests/end_to_end

test: $(VENV)/installed-dev        ## every test
	@set -e; for folder in $(TESTS); do echo "== $$folder"; $(BIN)/python -m pytest -q $$folder; done

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
