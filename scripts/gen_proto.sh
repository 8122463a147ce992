#!/bin/sh
# Generate the protobuf code and its typed stubs beside proto/nodepool.proto.
set -eu
cd "$(dirname "$0")/.."
out="${1:-.}"
PATH="$(dirname "${PYTHON:-.venv/bin/python}"):$PATH" "${PYTHON:-.venv/bin/python}" -m grpc_tools.protoc -I. \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" \
  proto/nodepool.proto
