"""What is installed and built comes from locks with hashes, and the tools that watch them tell the truth."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nodepool.settings import Settings
from tests.support.environment import ROOT

LOCKS = ("requirements.txt", "deploy/requirements.txt", "scripts/tools.txt", "scripts/protoc.txt")
PIN = re.compile(r"([a-z0-9][a-z0-9.-]*)==(\S+)(?: ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")


def pins(lock: str) -> dict[str, str]:
    """Name -> version; AssertionError for a line that is no pin with hashes."""
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {}
    hashes = 1
    for line in lines:
        if line.startswith("#"):
            continue
        if pin := PIN.fullmatch(line):
            assert hashes, f"{lock}: no hash above {line}"
            found[pin[1]], hashes = pin[2], 0
        else:
            assert HASH.fullmatch(line), f"{lock}: {line}"
            hashes += 1
    assert hashes
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_has_its_version_and_hashes(lock: str) -> None:
    assert pins(lock)
    assert "://" not in (ROOT / lock).read_text(encoding="utf-8")


def test_the_image_has_the_versions_that_are_tested() -> None:
    everything, image = pins("requirements.txt"), pins("deploy/requirements.txt")
    assert image.items() <= everything.items()
    assert not {"pytest", "mypy", "ruff", "grpcio-tools"} & image.keys()


def test_what_the_project_names_is_locked_at_that_version() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    everything, image = pins("requirements.txt"), pins("deploy/requirements.txt")
    for group, named in pyproject["dependency-groups"].items():
        for requirement in (Requirement(text) for text in named if isinstance(text, str)):
            for lock in [everything] if group == "dev" else [everything, image]:
                assert str(requirement.specifier) == f"=={lock[requirement.name]}", requirement


def test_what_people_install_is_a_range_with_the_servers_version_in_it() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, image = pyproject["project"], pins("deploy/requirements.txt")
    server = {Requirement(text).name for text in pyproject["dependency-groups"]["server"]}
    extras = project["optional-dependencies"]
    assert set(extras) == {"client", "agent"}
    for text in (*project["dependencies"], *extras["client"], *extras["agent"]):
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            continue
        assert {bound.operator for bound in requirement.specifier} == {">=", "<"}, text
        assert image[requirement.name] in requirement.specifier, text
        assert requirement.name in server, f"{requirement.name}: the server's version is named too"


def test_everything_is_installed_with_hashes_and_built_by_what_has_one() -> None:
    for file in ("Makefile", "scripts/install.sh", "deploy/Dockerfile"):
        text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
        for line in text.splitlines():
            if "pip install" in line:
                assert "--require-hashes" in line or "--no-deps --no-build-isolation" in line, line
    assert "hatchling" in pins("requirements.txt")
    assert "hatchling" in pins("deploy/requirements.txt")


def test_a_package_with_other_content_is_not_installed(tmp_path: Path) -> None:
    """One of the right name and version, as from an index or a mirror that somebody else got into."""
    text = (ROOT / "deploy/requirements.txt").read_text(encoding="utf-8")
    (lock,) = re.findall(r"^vine==.*(?:\n    .*)+", text, re.MULTILINE)
    version = pins("deploy/requirements.txt")["vine"]
    with zipfile.ZipFile(tmp_path / f"vine-{version}-py3-none-any.whl", "w") as wheel:
        info = f"vine-{version}.dist-info"
        wheel.writestr("vine/__init__.py", "print('not ours')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: vine\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (tmp_path / "lock.txt").write_text(lock + "\n")
    target = tmp_path / "target"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--isolated",
        "--no-index",
        "--no-deps",
        "--require-hashes",
    ]
    done = subprocess.run(
        [*command, "--find-links", str(tmp_path), "--target", str(target), "-r", str(tmp_path / "lock.txt")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not target.exists()


Done = subprocess.CompletedProcess[str]


def audit(tmp_path: Path, report: object, *, ends: int = 0, says: str = "") -> Done:
    """scripts/audit.py with a pip-audit that has this answer from every service; None: it writes none."""
    program = tmp_path / "pip-audit"
    (tmp_path / "answer.json").write_text(json.dumps(report))
    copy = f'cp {tmp_path}/answer.json "$1"' if report is not None else ":"
    program.write_text(
        '#!/bin/sh\nwhile [ "$1" != --output ]; do shift; done; shift\n'
        f"{copy}\necho {says!r} >&2\nexit {ends}\n"
    )
    program.chmod(0o755)
    lock = tmp_path / "lock.txt"
    lock.write_text("a==1 \\\n    --hash=sha256:0\nb==2 \\\n    --hash=sha256:0\n")
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/audit.py"), str(program), str(lock)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-2026-1"}]}
UNKNOWN = {"name": "b", "skip_reason": "Dependency not found"}


def test_an_audit_says_what_it_found_and_what_it_could_not_ask(tmp_path: Path) -> None:
    done = audit(tmp_path, {"dependencies": [CLEAN, {**BAD, "vulns": []}]})
    assert (done.returncode, "2 packages were looked up" in done.stdout) == (0, True)
    done = audit(tmp_path, {"dependencies": [CLEAN, BAD]}, ends=1)
    assert (done.returncode, "b 2: PYSEC-2026-1" in done.stdout) == (1, True)
    # pip-audit itself calls this "No known vulnerabilities found", and ends with 0.
    done = audit(tmp_path, {"dependencies": [CLEAN, UNKNOWN]})
    assert (done.returncode, "NOT AUDITED: the data could be had for 1 of 2" in done.stdout) == (75, True)
    done = audit(tmp_path, None, ends=1, says="no route to the registry")
    assert (done.returncode, "no route to the registry" in done.stdout) == (75, True)
    done = audit(tmp_path, {"dependencies": [BAD, UNKNOWN]}, ends=1)
    assert (done.returncode, "NOT AUDITED" in done.stdout) == (1, True)


DIGEST = "sha256:" + "0123456789abcdef" * 4


def pin(tmp_path: Path, *arguments: str, docker: str | None) -> Done:
    """scripts/pin_images.sh where `docker` is this shell script, or is not there."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("sh", "sed", "tail", "head", "mktemp", "mv", "rm", "cat", "chmod", "dirname"):
        link = programs / name
        if not link.exists():
            link.symlink_to(f"/usr/bin/{name}" if Path(f"/usr/bin/{name}").exists() else f"/bin/{name}")
    (programs / "docker").unlink(missing_ok=True)
    if docker is not None:
        (programs / "docker").write_text(f"#!/bin/sh\n{docker}\n")
        (programs / "docker").chmod(0o755)
    return subprocess.run(
        [str(ROOT / "scripts/pin_images.sh"), *arguments],
        env={"PATH": str(programs), "IMAGES_FILE": str(tmp_path / "images.env")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_images_are_pinned_all_or_none_and_what_is_not_is_told(tmp_path: Path) -> None:
    images = tmp_path / "images.env"
    assert "BASE_IMAGE is not pinned" in pin(tmp_path, "--check", docker=None).stderr
    for engine, code, words in (
        (None, 69, "docker is not there"),
        ("echo 'no such host' >&2; exit 1", 75, "could not be reached"),
        (
            f'[ "$1" = pull ] && case "$3" in postgres*) exit 1;; esac; echo x@{DIGEST}',
            75,
            "nothing was written",
        ),
        ("exit 0", 75, "has no digest"),
    ):
        done = pin(tmp_path, docker=engine)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("images")] == []
    done = pin(tmp_path, docker=f'[ "$1" = pull ] || echo "x@{DIGEST}"')
    assert done.returncode == 0, done.stderr
    assert f"BASE_IMAGE=python:3.12-slim@{DIGEST}" in images.read_text()
    done = pin(tmp_path, "--check", docker=None)
    assert (done.returncode, done.stderr) == (0, "")


def test_tasks_images_may_be_digests() -> None:
    settings = Settings(default_image=f"a:1@{DIGEST}", allowed_images=f"b@{DIGEST}, c")
    assert settings.image_allow_list == (f"a:1@{DIGEST}", f"b@{DIGEST}", "c")
