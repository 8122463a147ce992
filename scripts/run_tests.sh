#!/bin/sh
# run_tests.sh PYTHON PROCESSES: all tests. First those that share the Docker engine, one after the other, with
# nothing beside them; then the others in so many processes, since they wait more than they compute.
set -u
python="$1" processes="$2" status=0
HIVEMIND_TEST_PART=engine "$python" -m pytest tests || status=$?
HIVEMIND_TEST_PART=rest "$python" -m pytest -n "$processes" --dist loadgroup tests || status=$?
exit "$status"
