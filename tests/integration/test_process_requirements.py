"""requirements.txt of a package, installed in the sandbox before the run."""

from __future__ import annotations

import io
import zipfile

from tests.support.runs import RunFactory


def test_requirements_that_are_met_are_no_hindrance(runs: RunFactory) -> None:
    end, live = runs.run({"main.py": "print('ran')", "requirements.txt": "# nothing\n\npip\n"})
    assert (end.exit_code, end.problem, live.output) == (0, "", "ran\n")
    assert not live.spec.work_dir.with_name(live.spec.work_dir.name + ".deps").exists()


def test_requirements_that_are_not_met_without_network_fail_with_the_reason(runs: RunFactory) -> None:
    end, live = runs.run({"main.py": "print('ran')", "requirements.txt": "no-such-package-of-ours==1.0\n"})
    assert end.exit_code == 1
    assert "requirements.txt could not be installed" in end.problem
    assert "network" in end.problem
    assert "no-such-package-of-ours" in live.output
    assert "ran\n" not in live.output


def test_broken_requirements_fail_with_the_reason(runs: RunFactory) -> None:
    end, live = runs.run({"main.py": "print('ran')", "requirements.txt": "=== what\n"}, network=True)
    assert (end.exit_code, end.problem) == (1, "requirements.txt could not be installed")
    assert "=== what" in live.output


def test_requirements_from_the_package_itself_are_installed_outside_the_result(runs: RunFactory) -> None:
    wheel = _wheel("gadget", "VALUE = 42")
    files = {
        "main.py": "import gadget; print(gadget.VALUE)",
        "requirements.txt": "./gadget-1.0-py3-none-any.whl",
    }
    end, live = runs.run({**files, "gadget-1.0-py3-none-any.whl": wheel})
    assert (end.exit_code, end.problem) == (0, ""), live.output
    assert live.output.endswith("42\n")
    assert sorted(path.name for path in live.spec.work_dir.iterdir() if path.name != "__pycache__") == sorted(
        [*files, "gadget-1.0-py3-none-any.whl"]
    )


def _wheel(name: str, code: str) -> bytes:
    buffer = io.BytesIO()
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return buffer.getvalue()


def test_a_task_whose_files_are_named_like_the_library_still_gets_its_requirements(runs: RunFactory) -> None:
    files = {
        "main.py": "print('ran')",
        "requirements.txt": "pip\n",
        "csv.py": "raise SystemExit(9)",
        "re.py": "1/0",
    }
    end, live = runs.run(files)
    assert end.problem == ""
    assert "requirements" not in live.output
