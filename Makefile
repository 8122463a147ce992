# Every target uses the .venv that `make install` makes. Nothing else is needed than python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check proto bench compose-smoke lock clean

install: $(STAMP)

$(STAMP): pyproject.toml requirements.txt
	scripts/make_venv.sh $(PYTHON) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(STAMP)

proto: install
	PYTHON=$(BIN)/python scripts/gen_proto.sh

demo: install
	$(BIN)/python scripts/demo.py

test: install
	scripts/with_services.sh $(BIN)/python -m pytest tests

bench: install
	scripts/with_services.sh $(BIN)/python -m benchmarks

# Compose's file for real, as root on Debian or Ubuntu: builds images, brings all of it up, runs a task.
compose-smoke:
	scripts/compose_smoke.sh

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_lengths.py
	$(BIN)/python scripts/check_proto_fresh.py

# requirements.txt is compiled from pyproject.toml.
lock: install
	scripts/lock.sh

clean:
	rm -rf $(VENV) build *.egg-info
