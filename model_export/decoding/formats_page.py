"""Writes docs/formats.md from the table: `make formats-page`."""

from __future__ import annotations

import inspect

from imagecensus.model_export.decoding import depth
from imagecensus.model_export.decoding.signatures import known_names
from imagecensus.model_export.decoding.table import FORMATS, RAW_FORMATS

_HEAD = """# Formats

Made from the table in `model_export/decoding/table.py` by `make formats-page`. The content of a
file decides its format, never its name. What needs a library other than Pillow and NumPy is read
after `pip install 'imagecensus[formats]'`; without it the row is `unsupported_format` and says so.

| format | read by | |
|---|---|---|
"""
_TAIL = """
**Known by name, not read** (`unsupported_format`): {others}, and any other ISO media file.

**Orientation.** EXIF's tag is applied once in every format. `width` and `height` are as stored,
before it; HEIF turns its image itself, so that its sizes are as shown and its tag is not applied.

**Colour.** Embedded ICC profiles are converted to sRGB (of RGB and grey images after the resize);
a damaged profile is ignored. Alpha is composited over white, MinIsWhite inverted.

**Depth.**

{depth}

**Older models** (no `decoding` in the contract, or `decoding: 1`) keep the pixels they always had:
the high byte of 16 bits, floats as 0 to 255, no profiles, TIFFs as Pillow turns them. Only what
Pillow misread (16-bit planar TIFF, colour JPEG 2000 of over 8 bits, lossless JPEG, RLE4) is read as
above, and damaged TIFFs and PNGs are errors.
"""


def page() -> str:
    """The text of docs/formats.md."""
    rows = [(entry.name, entry.libraries, entry.note) for entry in FORMATS.values()]
    lines = [f"| {name} | {libraries} | {note} |" for name, libraries, note in [*rows, RAW_FORMATS]]
    others = ", ".join(sorted(known_names() - set(FORMATS), key=str.lower))
    rule = inspect.cleandoc(depth.__doc__ or "").partition("\n\n")[2]
    tail = _TAIL.format(others=others, depth=rule)
    return _HEAD + "\n".join(lines) + "\n" + tail


if __name__ == "__main__":
    print(page(), end="")
