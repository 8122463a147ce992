#!/bin/sh
# coverage.sh PYTHON PROCESSES [TESTS…]: runs the tests, and fails where one of the four packages has less than 90 %
# of its lines and branches covered. build/coverage holds the data: `coverage html` shows what is missing.
set -eu
python="$1" processes="$2"
shift 2
[ $# -gt 0 ] || set -- tests
folder="$PWD/build/coverage"
rm -rf "$folder"
mkdir -p "$folder"
export COVERAGE_FILE="$folder/data"
unset PYTHONDONTWRITEBYTECODE
# A part that is forked would not be measured from its start.
export HIVEMIND_TEST_FORK=0
status=0
"$python" -m coverage run -m pytest -n "$processes" "$@" || status=$?
"$python" -m coverage combine --quiet
for package in nodepool gateway dispatcher worker_agent; do
    printf '%-14s' "$package"
    "$python" -m coverage report --include "$package/*" --precision 1 --fail-under 90 | tail -1 || status=1
done
exit "$status"
