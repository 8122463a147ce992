"""The Mandelbrot set as a PNG file, with the standard library alone."""

import math
import struct
import time
import zlib
from pathlib import Path

WIDTH, HEIGHT = 960, 640
MAX_STEPS = 200
CENTRE = complex(-0.65, 0.0)
SPAN = 3.2  # width of the picture in the complex plane
PROGRESS_ROWS = 64


def steps_to_escape(c):
    """How many steps until the point leaves, smoothed to a fraction; 0.0 for points that stay."""
    # The two large areas that never leave are known in closed form, and are half of the work.
    x, y2 = c.real - 0.25, c.imag * c.imag
    q = x * x + y2
    if q * (q + x) <= 0.25 * y2 or (c.real + 1) ** 2 + y2 <= 0.0625:
        return 0.0
    z = 0j
    for step in range(1, MAX_STEPS + 1):
        z = z * z + c
        if z.real * z.real + z.imag * z.imag > 64.0:
            return step + 1 - math.log2(math.log(abs(z)))
    return 0.0


def colour(steps):
    if steps <= 0.0:
        return bytes((8, 8, 24))
    phase = 0.42 * math.sqrt(steps) * math.tau / 2
    return bytes(int(127.5 - 127.5 * math.cos(phase + shift)) for shift in (0.0, 0.7, 1.6))


def row_of(y):
    scale = SPAN / WIDTH
    imag = CENTRE.imag + (y - HEIGHT / 2) * scale
    reals = (CENTRE.real + (x - WIDTH / 2) * scale for x in range(WIDTH))
    return b"".join(colour(steps_to_escape(complex(real, imag))) for real in reals)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows):
    """8 bits a channel, RGB; every row begins with its filter byte 0."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def main():
    started = time.perf_counter()
    rows = []
    for y in range(HEIGHT):
        rows.append(row_of(y))
        if (y + 1) % PROGRESS_ROWS == 0:
            print(f"{(y + 1) * 100 // HEIGHT:3d} %  row {y + 1} of {HEIGHT}")
    picture = png(rows)
    with Path("mandelbrot.png").open("wb") as file:
        file.write(picture)
    seconds = time.perf_counter() - started
    print(f"{WIDTH} x {HEIGHT} pixels, {len(picture):,} bytes in {seconds:.1f} s (mandelbrot.png)")


if __name__ == "__main__":
    main()
