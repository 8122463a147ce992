# Every target uses the .venv that `make install` makes. Nothing else is needed than python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What only make sbom and make audit use is apart: it is no part of the product.
TOOLS := .venv-tools
TOOLS_STAMP := $(TOOLS)/.installed

.PHONY: install demo test coverage long soak chaos check proto bench compose-smoke image pin-images lock sbom audit clean

install: $(STAMP)

$(STAMP): pyproject.toml requirements.txt
	scripts/make_venv.sh $(PYTHON) $(VENV)
	scripts/install.sh $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

proto: install
	PYTHON=$(BIN)/python scripts/gen_proto.sh

demo: install
	$(BIN)/python scripts/demo.py

# In so many processes; 0 is one after the other.
TEST_PROCESSES ?= 6
test: install
	scripts/with_services.sh scripts/run_tests.sh $(BIN)/python $(TEST_PROCESSES)

# Of branches, in all processes; slower than make test, since each part is started by itself.
coverage: install
	scripts/with_services.sh scripts/coverage.sh $(BIN)/python $(TEST_PROCESSES)

# What takes minutes by itself: many more random orders and moments than make test tries, whole simulations, every
# part killed in every way, and the pool away for three minutes. And the sweeps of docs/sdk.md as they stand there,
# of 200 tasks.
LONG_TESTS := tests/integration/test_money_machine.py tests/integration/test_reservation_properties.py \
	tests/integration/test_simulate.py tests/unit/benchmarks/test_cheaters.py \
	tests/fault/test_chaos.py tests/fault/test_money_survives.py
long: install
	HIVEMIND_TEST_LONG=1 scripts/with_services.sh $(BIN)/python -m pytest -p no:cacheprovider $(LONG_TESTS)
	KILL_ROUNDS=3 scripts/with_services.sh $(BIN)/python -m pytest -s -p no:cacheprovider tests/fault/test_all_killed_in_turn.py
	HIVEMIND_TEST_SWEEP=200 scripts/with_services.sh $(BIN)/python -m pytest -p no:cacheprovider tests/e2e/test_pool_sdk.py -k docs
	OUTAGE_SECONDS=180 scripts/with_services.sh $(BIN)/python -m pytest -p no:cacheprovider tests/fault/test_outages.py

# Does the pool stay as large as it was? build/soak/soak.csv and soak.svg show it; minutes to hours.
SOAK_TASKS ?= 20000
soak: install
	scripts/with_services.sh nice -n 19 $(BIN)/python -m benchmarks.soak --tasks $(SOAK_TASKS)

# Faults of every kind under load, on both databases: SEEDS runs of MINUTES each, decided by CHAOS_SEED and those
# after it; then sentinels that choose another broker, and clocks that jump. CHAOS_OPTIONS: --several, --runner docker.
SEEDS ?= 5
MINUTES ?= 5
CHAOS_SEED ?= 1
CHAOS := scripts/with_services.sh nice -n 5 $(BIN)/python -m tests.chaos
chaos: install
	mkdir -p build
	for database in sqlite postgres; do \
		$(CHAOS) --seed $(CHAOS_SEED) --seeds $(SEEDS) --minutes $(MINUTES) --database $$database \
			--json build/chaos-$$database.json $(CHAOS_OPTIONS) || exit 1; \
	done
	$(CHAOS) --seed $(CHAOS_SEED) --minutes 1.5 --sentinel --faults failover --json build/chaos-sentinel.json
	$(CHAOS) --seed $(CHAOS_SEED) --minutes 2 --clocks --faults clock --json build/chaos-clocks.json

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

# The image, from the base that deploy/images.env pins where make pin-images has written it.
image:
	scripts/pin_images.sh --check || true
	docker build -f deploy/Dockerfile -t hivemind-nodepool \
		$$(sed -n 's/^\(BASE_IMAGE=.*\)/--build-arg \1/p' deploy/images.env 2>/dev/null) .

# Digests of the images, asked of their registries.
pin-images:
	scripts/pin_images.sh

# requirements.txt and its like are compiled from pyproject.toml, with hashes.
lock: install
	scripts/lock.sh

# What the image is made of, in CycloneDX.
sbom: $(TOOLS_STAMP)
	mkdir -p build
	$(TOOLS)/bin/python -W ignore -m cyclonedx_py requirements deploy/requirements.txt --pyproject pyproject.toml \
		--output-reproducible --output-format JSON --output-file build/sbom.json
	@echo "build/sbom.json is written"

# Known vulnerabilities of what is locked. Ends with 75 where the data could not be reached.
audit: $(TOOLS_STAMP)
	@$(TOOLS)/bin/python scripts/audit.py $(TOOLS)/bin/pip-audit requirements.txt deploy/requirements.txt

$(TOOLS_STAMP): scripts/tools.txt
	scripts/make_venv.sh $(PYTHON) $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r scripts/tools.txt
	touch $(TOOLS_STAMP)

clean:
	rm -rf $(VENV) $(TOOLS) .venv-protoc build *.egg-info
