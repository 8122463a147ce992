#!/bin/sh
# Generate the protobuf code and its typed stubs from proto/nodepool.proto: beside it, for whoever uses the protocol
# alone, and in nodepool/protocol, which the product imports. What people install has no package named `proto`: others have.
set -eu
cd "$(dirname "$0")/.."
out="${1:-.}"
PATH="$(dirname "${PYTHON:-.venv/bin/python}"):$PATH" "${PYTHON:-.venv/bin/python}" -m grpc_tools.protoc -I. \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" \
  proto/nodepool.proto
mkdir -p "$out/nodepool/protocol"
for generated in "$out"/proto/nodepool_pb2*.py*; do
  sed -e 's/^from proto import /from nodepool.protocol import /' -e 's/\bproto\.nodepool_pb2\b/nodepool.protocol.nodepool_pb2/g' \
    "$generated" >"$out/nodepool/protocol/$(basename "$generated")"
done
