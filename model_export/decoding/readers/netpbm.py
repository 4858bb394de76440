"""PBM, PGM, PPM, PAM and PFM of any depth: plain arrays behind a header of text."""

from __future__ import annotations

import re

import numpy as np

from imagecensus.model_export.decoding import depth
from imagecensus.model_export.decoding.errors import ImageError, truncated
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels
from imagecensus.model_export.decoding.readers import pillow_reader

_FIELD = re.compile(rb"(?:\s|#[^\n]*\n)*([^\s#]+)")
_PAM = re.compile(rb"(\w+)[ \t]*([^\n]*)\n")


def open_netpbm(data: bytes) -> Opened:
    kind = bytes(data[:2])
    if kind in (b"P1", b"P4"):
        return pillow_reader.open_plain(data, "PPM")
    name = {b"P7": "PAM", b"Pf": "PFM", b"PF": "PFM"}.get(kind, "PPM")
    try:
        if kind == b"P7":
            width, height, samples, most, start = _read_pam(data)
        else:
            width, height, most, start = _read_fields(data)
            samples = 3 if kind in (b"P3", b"P6", b"PF") else 1
    except (ValueError, AttributeError, KeyError):
        raise ImageError("decode_error", f"the {name} header is damaged", name) from None
    if width < 1 or height < 1 or not 0 < samples < 5 or (name != "PFM" and not 0 < most < 65536):
        raise ImageError("decode_error", f"the {name} header is damaged", name)

    def load(need: Need) -> LoadedImage:
        count = width * height * samples
        if kind in (b"P2", b"P3"):
            values = np.array(data[start:].split(None, count)[:count], np.int64)
            values = values.astype(np.uint16 if most > 255 else np.uint8)
        else:
            dtype = np.dtype(("<f4" if most < 0 else ">f4") if name == "PFM" else _whole(most))
            if len(data) - start < count * dtype.itemsize:
                raise truncated(name, "its pixels are cut")
            values = np.frombuffer(data, dtype, count, start)
        if len(values) < count:
            raise truncated(name, "its pixels are cut")
        values = values.reshape(height, width, samples)
        if name == "PFM":
            values = values[::-1]
        colours = 3 if samples >= 3 else 1
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if most == 255 and name != "PFM":
            return LoadedImage(image=from_pixels(values, colours))
        stated = (0.0, most) if name != "PFM" and most != 65535 else None
        pixels, scaled = depth.to_eight_bits(values, stated, colours=colours)
        return LoadedImage(image=from_pixels(pixels, colours), depth_scaled=scaled)

    return Opened(format=name, width=width, height=height, load=load)


def _whole(most: float) -> str:
    return ">u2" if most > 255 else "u1"


def _read_fields(data: bytes) -> tuple[int, int, float, int]:
    """(width, height, maximum or PFM's scale, where the pixels begin)."""
    fields, at = [], 2
    for _ in range(3):
        found = _FIELD.match(data, at)
        if found is None:
            raise ValueError
        fields.append(found[1])
        at = found.end()
    return int(fields[0]), int(fields[1]), float(fields[2]), at + 1


def _read_pam(data: bytes) -> tuple[int, int, int, float, int]:
    fields, at = {}, 3
    while not data.startswith(b"ENDHDR", at):
        found = _PAM.match(data, at)
        if not found:
            at = data.index(b"\n", at) + 1  # a comment
            continue
        fields[found[1]], at = found[2].strip(), found.end()
    start = data.index(b"\n", at) + 1
    return (
        int(fields[b"WIDTH"]), int(fields[b"HEIGHT"]), int(fields[b"DEPTH"]),
        float(fields[b"MAXVAL"]), start,
    )  # fmt: skip
