"""What the documents point to is there: files of the repository, relative links, and their headings."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from hivemind.cli.entry import cli
from tests.support.environment import ROOT

_SUFFIXES = "py|pyi|md|sh|toml|yml|yaml|proto|txt|env|sql|svg|png|cfg|ini"
_PATH = re.compile(rf"`(\.?[\w@.-]+(?:/[\w@.-]+)+\.(?:{_SUFFIXES})|[\w@.-]+(?:/[\w@.-]+)*/)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Named in documents and made by the product or by make, or shown as an example of a user's own.
NOT_OURS = frozenset(
    {"build/sbom.json", "deploy/images.env", "client/", "storage/", "secrets/", "valkey/", "agents/", "logs/"}
)


def documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).is_file()]


DOCUMENTS = documents()
_ids = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def missing_files(text: str, folder: Path) -> list[str]:
    """Paths in backticks, from the root or from the document's own folder, that are not there."""
    return [
        path
        for path in _PATH.findall(_FENCE.sub("", text))
        if path not in NOT_OURS and not (ROOT / path).exists() and not (folder / path).exists()
    ]


def anchors_of(text: str) -> set[str]:
    """The headings as GitHub spells them in links."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, folder: Path, own_name: str) -> list[str]:
    broken = []
    for link in _LINK.findall(_FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = folder / (name or own_name)
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_every_file_that_a_document_names_is_there(path: Path) -> None:
    assert missing_files(path.read_text(encoding="utf-8"), path.parent) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    assert broken_links(path.read_text(encoding="utf-8"), path.parent, path.name) == []


def test_a_file_and_a_link_that_are_not_there_are_found() -> None:
    text = "# A page\n`gateway/nowhere.py`, `gateway/server.py`, [x](#a-page), [y](#gone), [z](gone.md)"
    assert missing_files(text, ROOT) == ["gateway/nowhere.py"]
    assert broken_links(text, ROOT / "docs", "states.md") == ["#a-page", "#gone", "gone.md"]


def glossary_rows() -> list[list[str]]:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] != "term"]


def test_every_term_of_the_glossary_has_one_line_and_a_file() -> None:
    rows = glossary_rows()
    assert [row for row in rows if len(row) != 3 or not _PATH.fullmatch(row[2])] == []
    terms = [row[0] for row in rows]
    assert sorted(terms) == sorted(set(terms)), "a term has one meaning and one line"


@pytest.mark.parametrize(
    "term",
    ["queue", "scheduler", "placement", "reservation", "attempt", "lease", "heartbeat", "failure detector",
     "fencing token", "retry", "replica", "audit", "escrow", "hold", "posting", "wait queue", "fair share",
     "trust tier", "credit score", "provisional result", "probe", "pushed node", "hint", "sweep"],
)  # fmt: skip
def test_the_glossary_has_the_standard_terms(term: str) -> None:
    assert term in {row[0] for row in glossary_rows()}


# -- messages that docs/troubleshooting.md quotes -------------------------------------------------------

PRODUCT = ("gateway", "dispatcher", "worker_agent", "hivemind", "local_pool", "nodepool")
_QUOTED = re.compile(r"(`+)(.+?)\1")


def _template(node: ast.AST) -> str:
    """A text of the code as people read it, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return "…"


def texts_of_the_code() -> list[str]:
    files = [path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py") if "_pb2" not in path.name]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    texts = [_template(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)]
    return [" ".join(re.sub(r"\{\w*\}|%s", "…", text).split()) for text in texts if len(text) > 5]


def quoted_messages() -> list[str]:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    return [found[2].strip() for row in rows if (found := _QUOTED.fullmatch(row))]


def unknown_messages(messages: list[str], texts: list[str]) -> list[str]:
    """Messages that are in no text of the code: each piece between … must be there, in this order."""
    unknown = []
    for message in messages:
        pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
        pattern = re.compile(".*".join(map(re.escape, pieces)))
        if not any(pattern.search(text) for text in texts):
            unknown.append(message)
    return unknown


def test_messages_that_troubleshooting_quotes_are_in_the_code() -> None:
    messages = quoted_messages()
    assert len(messages) > 30
    assert unknown_messages(messages, texts_of_the_code()) == []


def test_a_message_that_the_code_does_not_have_is_found() -> None:
    texts = ["the pool at … is away: …; start it"]
    assert unknown_messages(["the pool at … is away", "away: … start it", "it is … away"], texts) == [
        "it is … away"
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_people_are_they(path: Path) -> None:
    found = re.findall(r"\b(?:he|his|him|himself|she|hers|herself)\b", path.read_text(encoding="utf-8"), re.I)
    assert found == [], "write `they`: nobody here is known to be a man or a woman"


def test_the_page_of_the_architecture_has_every_storey() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    storeys = [name.strip() for layer in layers for name in layer.split("|")]
    folders = [name.replace(".", "/") + "/" for name in storeys if (ROOT / name.replace(".", "/")).is_dir()]
    stores = [name for name in folders if name.startswith("nodepool/stores/")]
    missing = [name for name in folders if name not in page and name not in stores]
    missing += [name for name in stores if name.removeprefix("nodepool/stores/") not in page]
    assert missing == [], "docs/architecture.md lacks a storey of the contract"


# -- commands, options, settings and modules that documents name ---------------------------------------


def code_in(text: str) -> str:
    """Everything of a document that is written as code."""
    return "\n".join(body for body in _FENCE.findall(text)) + "\n".join(
        code for _, code in _QUOTED.findall(_FENCE.sub("", text))
    )


@pytest.fixture(scope="module")
def sources() -> str:
    """All that the repository has besides documents: what it knows under a name is in here."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [
        name for name in listed.stdout.split() if not name.endswith(".md") and "requirements" not in name
    ]
    paths = [ROOT / name for name in names if (ROOT / name).is_file()]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)


# Of the reader, and of Linux.
NOT_SETTINGS = frozenset({"BROKER_PORT", "CAP_SYS_ADMIN"})
CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]


@pytest.mark.parametrize("path", CURRENT, ids=[str(path.relative_to(ROOT)) for path in CURRENT])
def test_commands_options_settings_and_modules_of_a_document_exist(path: Path, sources: str) -> None:
    code = code_in(path.read_text(encoding="utf-8"))
    known = cli.list_commands(click.Context(cli))
    commands = set(re.findall(r"(?<!from )\bhivemind (?:--[\w-]+ (?:HOST:PORT )?)*([a-z]+)\b", code))
    assert commands - set(known) == set(), "no such command"
    settings = set(re.findall(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b", code))
    assert {name for name in settings - NOT_SETTINGS if name not in sources} == set(), "no such setting"
    modules = set(
        re.findall(r"python3? -m ((?:benchmarks|worker_agent|dispatcher|gateway|hivemind)[\w.]*)", code)
    )
    assert {name for name in modules if find_spec(name) is None} == set(), "no such module"
    targets = set(re.findall(r"^make ([a-z-]+)\b", code, re.MULTILINE))
    assert {name for name in targets if f"\n{name}:" not in sources} == set(), "no such make target"


def test_files_that_comments_of_the_product_name_are_there() -> None:
    files = [
        path
        for folder in (*PRODUCT, "benchmarks", "scripts", "deploy")
        for path in (ROOT / folder).rglob("*.py")
    ]
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in files
        for name in re.findall(
            r"(?<![\w./-])([a-z_]+(?:/[\w-]+)+\.(?:py|md|proto))\b", path.read_text(encoding="utf-8")
        )
    }
    # A comment may leave out nodepool/.
    gone = {
        (path, name)
        for path, name in named
        if not (ROOT / name).exists() and not (ROOT / "nodepool" / name).exists()
    }
    assert gone == set()
