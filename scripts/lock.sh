#!/bin/sh
# Compile requirements.txt from pyproject.toml (all extras), pinned, without naming any index.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install --quiet --disable-pip-version-check pip-tools
.venv/bin/python -m piptools compile --quiet --strip-extras --extra dev --no-annotate --no-header --no-emit-index-url \
    --no-emit-find-links --no-emit-trusted-host --output-file requirements.tmp pyproject.toml
# The project itself is installed from the checkout.
{ echo "# Compiled from pyproject.toml by scripts/lock.sh"; grep -v '^hivemind-nodepool' requirements.tmp; } > requirements.txt
rm requirements.tmp
