#!/bin/sh
# Generate the protobuf code and its typed stubs from proto/nodepool.proto: beside it, for whoever uses the protocol
# alone, and in nodepool/protocol, which the product imports. What people install has no package named `proto`: others have.
# The generator has an environment of its own (scripts/protoc.in says why), which is made when it is not there.
set -eu
cd "$(dirname "$0")/.."
out="${1:-.}"
python="${PYTHON:-.venv/bin/python}"
generator=.venv-protoc
if ! cmp -s scripts/protoc.txt "$generator/.installed"; then
  "$python" -m venv --clear --without-pip "$generator"
  "$python" -m pip --python "$generator" install --quiet --disable-pip-version-check --no-compile --require-hashes \
    -r scripts/protoc.txt
  cp scripts/protoc.txt "$generator/.installed"
fi
PATH="$PWD/$generator/bin:$PATH" "$generator/bin/python" -m grpc_tools.protoc -I. \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" \
  proto/nodepool.proto
mkdir -p "$out/nodepool/protocol"
for generated in "$out"/proto/nodepool_pb2*.py*; do
  sed -e 's/^from proto import /from nodepool.protocol import /' -e 's/\bproto\.nodepool_pb2\b/nodepool.protocol.nodepool_pb2/g' \
    "$generated" >"$out/nodepool/protocol/$(basename "$generated")"
done
