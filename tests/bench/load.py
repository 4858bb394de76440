"""Many small images, some of them broken in every way: `make bench SECTIONS=load`."""

from __future__ import annotations

import io
import pathlib
import struct
import sys
import zlib

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from samples import photo

COUNT, ONE_IN = 50_000, 50
MODEL = pathlib.Path(__file__).parents[1] / "data" / "v0.1" / "model"  # tiny: the job is measured


def make_images(folder: pathlib.Path, count: int, one_in: int | None) -> pathlib.Path:
    """`count` files, each `one_in`th broken, in six ways in turn; once."""
    if folder.exists():
        return folder
    whole = [_jpeg(seed) for seed in range(100)]
    broken = [
        b"",
        whole[0][: len(whole[0]) // 2],
        whole[0][:20],
        b"no image at all",
        whole[0][:200] + bytes(200) + whole[0][400:],
        _bomb(),
    ]
    partial = folder.with_suffix(".partial")
    for number in range(count):
        data = whole[number % len(whole)]
        if one_in and number % one_in == 0:
            data = broken[number // one_in % len(broken)]
        path = partial / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    partial.rename(folder)
    return folder


def _jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    photo(seed).save(file, "JPEG", quality=90)
    return file.getvalue()


def _bomb() -> bytes:
    """A PNG that says it is 60,000 pixels wide and high."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + head
        + struct.pack(">I", zlib.crc32(head))
        + struct.pack(">I", 5)
        + b"IDAT"
    )
