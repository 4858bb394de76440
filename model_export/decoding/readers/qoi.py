"""QOI, by imagecodecs; Pillow's reader of it is a loop in Python, a minute for a photo."""

from __future__ import annotations

import numpy as np

from imagecensus.model_export.decoding.errors import ImageError, truncated
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels
from imagecensus.model_export.decoding.readers.pillow_reader import open_plain

_END, _TAIL = bytes(7) + b"\1", 4096  # some writers leave bytes behind the end


def open_qoi(data: bytes) -> Opened:
    try:
        import imagecodecs
    except ImportError:
        return open_plain(data, "QOI")
    if len(data) < 14 or data[12] not in (3, 4):
        raise ImageError("decode_error", "the QOI header is damaged", "QOI")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (4, 8))

    def load(need: Need) -> LoadedImage:
        if _END not in data[-_TAIL:]:  # the decoder repeats the last pixel
            raise truncated("QOI", "its end is not there")
        return LoadedImage(image=from_pixels(np.asarray(imagecodecs.qoi_decode(data)), colours=3))

    return Opened(format="QOI", width=width, height=height, load=load)
