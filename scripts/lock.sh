#!/bin/sh
# Compiles the four locks, each with the hashes of every file of every package, without naming any index:
#   requirements.txt         everything, for working on the repository (from pyproject.toml)
#   deploy/requirements.txt  what the image has, and what builds it: the same versions
#   scripts/tools.txt        make sbom and make audit (from scripts/tools.in)
#   scripts/protoc.txt       make proto (from scripts/protoc.in)
# Versions stay as they are while they fit; LOCK_ARGUMENTS=--upgrade takes new ones.
set -eu
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

compile() { # LOCK ARGUMENTS…: for every platform and every Python from 3.11 up
    lock="$1"
    shift
    { [ ! -f "$lock" ] || grep -v '^# Compiled' "$lock"; } >"$work/lock.txt"
    # shellcheck disable=SC2086
    .venv/bin/uv pip compile --quiet --native-tls --universal --python-version 3.11 --generate-hashes \
        --no-annotate --no-header --no-emit-index-url --no-emit-find-links ${LOCK_ARGUMENTS:-} \
        --output-file "$work/lock.txt" "$@"
    { echo "# Compiled by scripts/lock.sh (make lock)"; cat "$work/lock.txt"; } >"$lock"
}

# The project itself is installed from the checkout, by the hatchling that is in the lock.
.venv/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" \
    >"$work/build.in"
compile requirements.txt --extra agent --group pyproject.toml:dev pyproject.toml "$work/build.in"
compile deploy/requirements.txt --extra agent --group pyproject.toml:server --constraint requirements.txt \
    pyproject.toml "$work/build.in"
compile scripts/tools.txt scripts/tools.in
compile scripts/protoc.txt scripts/protoc.in
