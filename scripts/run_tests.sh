#!/bin/sh
# run_tests.sh PYTHON PROCESSES: all tests in so many processes, since they wait as much as they compute.
# tests/support/forks.py forks them, and tests/support/spreading.py says what stays together.
set -u
python="$1" processes="$2"
# Else every part that the tests start compiles all that it imports.
unset PYTHONDONTWRITEBYTECODE
exec "$python" -m pytest --forks "$processes" tests
