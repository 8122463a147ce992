#!/bin/sh
# run_tests.sh PYTHON PROCESSES: all tests in so many processes, since they wait as much as they compute.
# tests/support/spreading.py says what stays together.
set -u
python="$1" processes="$2"
# Else every process of the tests, and every part that they start, compiles all that it imports.
unset PYTHONDONTWRITEBYTECODE
# What pytest makes of the tests' files it keeps itself. Once, and not in each process at the same time.
[ -d tests/__pycache__ ] || "$python" -m pytest -q --collect-only tests >/dev/null 2>&1 || true
exec "$python" -m pytest -n "$processes" tests
