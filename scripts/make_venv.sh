#!/bin/sh
# make_venv.sh PYTHON DIR: a virtual environment, also where Debian split venv from python3.
set -eu
python="$1" dir="$2"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; run: make install PYTHON=/path/to/python3.11" >&2; exit 1; }
[ -x "$dir/bin/python" ] && "$dir/bin/python" -m pip --version >/dev/null 2>&1 && exit 0
if ! "$python" -m venv "$dir" 2>/dev/null; then
    rm -rf "$dir"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
        "$python" -m venv "$dir"
    else
        echo "python3 has no venv module here; install it (Debian: apt install python3-venv) and try again" >&2
        exit 1
    fi
fi
