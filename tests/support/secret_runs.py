"""A run that is given a secret, says it aloud and lives for a while, and the search for it meanwhile."""

from __future__ import annotations

import hashlib
import io
import zipfile

import docker

from tests.support.accounts import Account
from tests.support.pool import TestPool
from tests.support.traces import traces

KEPT = "a-value-nobody-else-reads-0123456789"
# In one piece, and cut in the middle with a pause for whoever sends it on.
KEEPS_A_SECRET = """
import hashlib, os, sys, time
value = os.environ["TOKEN"]
print("sha256", hashlib.sha256(value.encode()).hexdigest())
print("it is", value, flush=True)
sys.stdout.write("it is " + value[:17])
sys.stdout.flush()
time.sleep(0.3)
sys.stdout.write(value[17:] + "\\nup\\n")
sys.stdout.flush()
time.sleep(600)
"""


def keeps_it(pool: TestPool, user: Account, task: str, engine: docker.DockerClient | None = None) -> None:
    """While it runs and when it has ended, the secret is nowhere, and the run had it."""
    pool.wait(lambda: "up\n" in user.logs(task), "it has said its secret")
    said = user.logs(task)
    assert hashlib.sha256(KEPT.encode()).hexdigest() in said
    assert said.count("it is ***") >= 2
    assert KEPT not in said
    assert traces(pool, KEPT, engine) == []
    user.stop(task)
    user.wait_for(task, "STOPPED")
    result = zipfile.ZipFile(io.BytesIO(user.result(task)))
    assert not any(KEPT.encode() in result.read(name) for name in result.namelist())
    assert traces(pool, KEPT, engine) == []
