#!/bin/sh
# install.sh PYTHON: what requirements.txt locks, into the environment of this Python.
# pip needs a minute of a processor for it and uv, which is locked there too, some seconds. uv reads nothing of
# pip's own configuration: where an index is named only there, or none can be reached, pip does all of it.
set -eu
python="$1"
by_pip() { "$python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$1"; }
uv_alone="$(mktemp)"
trap 'rm -f "$uv_alone"' EXIT
awk '/^[^ #]/ { of_uv = /^uv==/ } of_uv' requirements.txt >"$uv_alone"
by_pip "$uv_alone"
"$python" -m uv --quiet --native-tls pip install --python "$python" --require-hashes -r requirements.txt ||
    by_pip requirements.txt
