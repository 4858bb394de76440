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

**Colour.** Embedded ICC profiles are converted to sRGB (of RGB and grey images after the resize):
those of three curves and a matrix by tables, within 1 level of lcms, which does the others; a
damaged profile is ignored. Alpha is composited over white, MinIsWhite inverted. Photoshop's
flattened images are over white already. Signed bytes of TIFF are shown as unsigned ones, as
viewers do.

**PDF.** Page 1 is the image; with `--pages all` each page is one. Pages are drawn with their
annotations and filled forms, over white, without fonts of the machine: what a file does not embed
is drawn in PDFium's own, so that each machine draws alike. A file encrypted with a password is
`permission_denied`, one without its end mark `truncated`. PDF has no checksums: like a viewer,
PDFium repairs what it can of a damaged file.

**Depth.**

{depth}

**How fast, and beside what.** Which other library each kind of file was compared with, how many
files, the largest difference, CPU time and memory are in
[performance](performance.md#each-format-beside-a-second-decoder), by `make formats-bench`.

**Decoded smaller**, against decoding all of it (mean and largest difference of the 8-bit
pixels, and how much faster): JPEG 0.16, 2, 3.4 times; progressive JPEG 0.16, 2, 1.6 times; JPEG
2000 1.5, 20, 6.8 times; a pyramid of TIFF 0.35, 7, 9 times. HEIC is always decoded whole, at
1010 ms for 12 megapixels: HEVC has no smaller version of an image in it, and of a thumbnail beside
it pi-heif gives the size only. Of the files among pillow-heif's tests, those of phones have none,
or one of 320 or 512 pixels, where a model of 224 x 224 needs 448 on both sides by the margin of its
contract. Two files of cameras (`.hif`) have one of 1616 pixels, which would do; two are too few to
show that it agrees. Colour JPEG 2000 of over 8 bits is decoded whole too (imagecodecs has no
levels). A colour profile (Adobe RGB) adds 0.5 ms to a JPEG of 2 megapixels seen at 224 x 224 (6.0
ms), as it is converted after the resize, and 42 ms where all 2 megapixels are kept.

**Held to.** What a second decoder or the writer says of the same files, in
`tests/model_export/decoding`: the eight orientations of 38 kinds of file; over 4,000 TIFFs of
every photometric, depth, layout and byte order, within 1 level (CMYK 2, YCbCr 4, Lab 0.6 on
average) of what tifffile was given; DICOM of one image in many transfer syntaxes against the
uncompressed file (measured once: 58 files within 3 levels of pylibjpeg and pyjpegls); Photoshop
files of every mode and depth, and camera raw in DNG, against what was written; ICC
profiles within 3 levels of ICC's arithmetic (JPEG 6); AVIF within 3 of imagecodecs. 48 kinds of
file, damaged and cut at random places, have the same pixels whatever memory held before, and
none that announces its end or carries a checksum is `ok` with other pixels.

**What the extra installs** (wheels for Linux, 38 MB in all, 123 installed; MB of each, and its
licence): imagecodecs 26.5, BSD-3, with libraries of BSD, MIT, zlib and IJG licences; pi-heif 1.5,
BSD-3, with libheif and libde265 (LGPL-3, linked dynamically); rawpy 3, MIT, with LibRaw (LGPL-2.1
or CDDL); tifffile 0.2, BSD-3; pydicom 2.4, MIT; inflate64 0.1, LGPL-2.1; pypdfium2 4, BSD-3 and
Apache-2.0, with PDFium (BSD-3 and Apache-2.0) and what is in it (FreeType, OpenJPEG, libtiff and
others, of BSD's and MIT's kind).

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
