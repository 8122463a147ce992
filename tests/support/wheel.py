"""The built wheel, in environments of its own: what people have, at both ends of the ranges."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

from tests.support.environment import ROOT, not_here

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEWEST_PYTHONS = ("3.13", "3.12", "3.11")
_UV = str(Path(sys.executable).with_name("uv"))


def build_wheel(folder: Path) -> Path:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder))
    return Path(wheel)


def lowest_versions() -> Iterator[str]:
    """Each package of the ranges at the lowest version that its range allows."""
    extras = PROJECT["optional-dependencies"]
    for requirement in map(Requirement, (*PROJECT["dependencies"], *extras["client"], *extras["agent"])):
        for bound in requirement.specifier:
            if bound.operator == ">=":
                yield f"{requirement.name}=={bound.version}"


@dataclass(frozen=True)
class Venv:
    """An environment that this checkout is not in."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, *packages: str, python: str = sys.executable) -> Venv:
        _uv("venv", "--python", python, str(folder))
        made = cls(folder)
        if packages:
            made.install(*packages)
        return made

    def install(self, *packages: str) -> None:
        _uv("pip", "install", "--python", str(self.folder), *packages)

    def uninstall(self, package: str) -> None:
        _uv("pip", "uninstall", "--python", str(self.folder), package)

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    def run(self, program: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        kept = ("PATH", "SSL_CERT_FILE")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        return subprocess.run(
            [self.program(program), *arguments],
            cwd=cwd or self.folder,
            env={**environment, "HOME": str(self.folder), "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


def newest_python() -> str:
    """The newest of the versions that the package names which this machine has; the tests' own at least."""
    for version in NEWEST_PYTHONS:
        if found := shutil.which(f"python{version}"):
            done = subprocess.run(
                [found, "-c", "import sys; print(sys.executable)"],
                # pyenv's shims answer for a version that is chosen only.
                env={**os.environ, "PYENV_VERSION": version},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode == 0:
                return done.stdout.strip()
    return sys.executable


def _uv(*arguments: str) -> None:
    done = subprocess.run(
        [_UV, "--quiet", "--native-tls", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0 and "error sending request" in done.stderr:
        not_here(f"no package index can be reached: {done.stderr}")
    assert done.returncode == 0, done.stderr
