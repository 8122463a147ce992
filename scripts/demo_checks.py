"""Whether the results of the examples are right: each looks at an unpacked result and says what it found."""

from __future__ import annotations

import csv
import json
import re
import runpy
import struct
import zlib
from collections import Counter
from math import pi
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PI_TOLERANCE = 0.01
PICTURE_SIZE = (960, 640)
FEWEST_COLOURS = 100


class DemoError(Exception):
    """The demo did not show what it should."""


def check_pi(folder: Path) -> str:
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    estimate = 4 * result["inside"] / result["points"]
    if abs(estimate - pi) > PI_TOLERANCE or estimate != result["pi"]:
        raise DemoError(f"pi came out as {result['pi']}, from {result['inside']} of {result['points']}")
    return f"pi = {estimate:.5f} from {result['points']:,} points"


def check_counts(folder: Path) -> str:
    """Makes the text here, counts its words in another way, and wants the very same of both."""
    example = runpy.run_path(str(EXAMPLES / "wordcount" / "main.py"))
    text = "".join(example["make_text"](example["SEED"], example["WORDS"]))
    if (folder / "text.txt").read_text(encoding="utf-8") != text:
        raise DemoError("the text that was counted is not the one that its seed makes here")
    expected = Counter(match.group() for match in re.finditer(r"[a-z]+('[a-z]+)?", text.lower()))
    with (folder / "counts.csv").open(encoding="utf-8", newline="") as file:
        found = {row["word"]: int(row["count"]) for row in csv.DictReader(file)}
    if found != expected:
        wrong = [word for word in expected.keys() | found.keys() if expected[word] != found.get(word, 0)]
        raise DemoError(f"{len(wrong)} words are counted wrongly, for instance {sorted(wrong)[:3]}")
    return f"{sum(found.values()):,} words, {len(found):,} different ones, each counted as here"


def check_picture(folder: Path) -> str:
    width, height, pixels = decode_png((folder / "mandelbrot.png").read_bytes())
    if (width, height) != PICTURE_SIZE:
        raise DemoError(f"the picture is {width} x {height}, not {PICTURE_SIZE[0]} x {PICTURE_SIZE[1]}")
    colours = len({pixels[index : index + 3] for index in range(0, len(pixels), 3)})
    if colours < FEWEST_COLOURS:
        raise DemoError(f"the picture has {colours} colours only")
    return f"a PNG of {width} x {height} pixels in {colours:,} colours"


def decode_png(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and the pixels of an 8-bit RGB PNG without filters, each chunk's checksum checked."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise DemoError("the picture is not a PNG")
    chunks: dict[bytes, bytes] = {}
    position = 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        if zlib.crc32(kind + content) != checksum:
            raise DemoError("a checksum in the picture is wrong")
        chunks[kind] = chunks.get(kind, b"") + content
        position += length + 12
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if (depth, colour) != (8, 2) or b"IEND" not in chunks:
        raise DemoError("the picture is not a whole 8-bit RGB PNG")
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = 1 + 3 * width
    if len(raw) != stride * height or any(raw[row * stride] for row in range(height)):
        raise DemoError("the picture has not the bytes that its size asks for")
    return width, height, b"".join(raw[row * stride + 1 : (row + 1) * stride] for row in range(height))
