"""README.md is short, and README.zh-TW.md says all that it says: same headings, code, commands and links."""

from __future__ import annotations

import re

from tests.support.environment import ROOT

MOST_WORDS = 1_200
ENGLISH, CHINESE = "README.md", "README.zh-TW.md"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A comment in a block is prose, and is translated.
_COMMENT = re.compile(r"\s+#\s.*$", re.MULTILINE)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(text: str) -> list[tuple[str, str]]:
    return [(language, _COMMENT.sub("", body)) for language, body in _FENCE.findall(text)]


def prose(text: str) -> str:
    return _FENCE.sub("", text)


def heading_levels(text: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]


def inline_code(text: str) -> list[str]:
    return sorted(" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text)))


def links(text: str) -> list[str]:
    targets = re.findall(r"\]\(([^)]+)\)", prose(text))
    return sorted(target for target in targets if target not in {ENGLISH, CHINESE})


def shape(text: str) -> list[str]:
    """What kind of block follows what, under which level: a paragraph that was left out shows."""
    kinds = []
    for block in re.split(r"\n{2,}", _FENCE.sub("~~~", text).strip()):
        if block.startswith("- "):
            kinds.append(f"list of {len(re.findall('^- ', block, re.MULTILINE))}")
        elif block.startswith("|"):
            kinds.append(f"table of {len(block.splitlines())}")
        elif block.startswith("#"):
            kinds.append(block.split()[0])
        else:
            kinds.append("code" if block == "~~~" else "text")
    return kinds


def test_the_readme_is_short() -> None:
    words = len(text_of(ENGLISH).split())
    assert words <= MOST_WORDS, f"README.md has {words} words: move something to docs/"


def test_both_have_the_same_headings() -> None:
    assert heading_levels(text_of(CHINESE)) == heading_levels(text_of(ENGLISH))


def test_both_have_the_same_paragraphs_lists_and_tables() -> None:
    # The Chinese one also says that the other documents are in English.
    chinese = text_of(CHINESE).replace("文件皆為英文。\n\n", "")
    assert shape(chinese) == shape(text_of(ENGLISH))


def test_both_have_the_same_code_but_for_comments() -> None:
    assert code_blocks(text_of(CHINESE)) == code_blocks(text_of(ENGLISH))


def test_both_have_the_same_comments_in_code() -> None:
    def count(name: str) -> list[int]:
        return [len(_COMMENT.findall(body)) for _, body in _FENCE.findall(text_of(name))]

    assert count(CHINESE) == count(ENGLISH)


def test_both_name_the_same_commands_options_and_files() -> None:
    assert inline_code(text_of(CHINESE)) == inline_code(text_of(ENGLISH))


def test_both_link_to_the_same_pages() -> None:
    assert links(text_of(CHINESE)) == links(text_of(ENGLISH))


def test_a_part_that_is_missing_is_seen() -> None:
    text = "# A\n\nOne `--x`.\n\n```sh\nmake demo  # runs\n```\n\n- [a](b.md)\n"
    assert (heading_levels(text), inline_code(text), links(text)) == ([1], ["--x"], ["b.md"])
    assert code_blocks(text) == [("sh", "make demo\n")]
    assert shape(text) == ["#", "text", "code", "list of 1"]
