"""The one table of formats: what is read, by which library, and what is only known by name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from imagecensus.model_export.common.placeholders import placeholder
from imagecensus.model_export.decoding.errors import ImageError, unsupported
from imagecensus.model_export.decoding.opened import Opened
from imagecensus.model_export.decoding.readers import (
    bmp,
    dicom,
    gif,
    hdr,
    heif,
    jpeg,
    jpeg2000,
    jpeg_xl,
    netpbm,
    pdf,
    pillow_reader,
    png,
    psd,
    qoi,
    raw,
    tiff,
)
from imagecensus.model_export.decoding.signatures import identify, is_raw


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A format that is read. `libraries` and `note` are for people; see docs/formats.md.

    `open_page` takes the number of a page or frame too, from 1; None: there is one only.
    """

    name: str
    open: Callable[[bytes], Opened]
    open_page: Callable[[bytes, int], Opened] | None = None
    libraries: str
    note: str = ""


def _plain(name: str, note: str = "", plugin: str | None = None, frames: bool = False) -> Format:
    opener = functools.partial(pillow_reader.open_plain, name=name, plugin=plugin)
    by_number = _frame_opener(name) if frames else None
    return Format(name=name, open=opener, open_page=by_number, libraries="Pillow", note=note)


def _frame_opener(name: str) -> Callable[[bytes, int], Opened]:
    return lambda data, number: pillow_reader.open_plain(data, name, number=number)


FORMATS = {
    entry.name: entry
    for entry in (
        Format(
            name="JPEG", open=jpeg.open_jpeg,
            libraries="Pillow; imagecodecs for over 8 bits and JPEG-LS",
            note="also MPO (its first image), 12 bits, lossless, JPEG-LS; at 1/2, 1/4 or 1/8",
        ),
        Format(
            name="PNG", open=png.open_png, open_page=_frame_opener("PNG"), libraries="Pillow",
        ),
        Format(
            name="GIF", open=functools.partial(pillow_reader.open_plain, name="GIF"),
            open_page=gif.open_gif_frame, libraries="Pillow", note="the first frame",
        ),
        _plain("WEBP", "the first frame", frames=True),
        Format(
            name="TIFF", open=tiff.open_tiff, open_page=tiff.open_tiff,
            libraries="Pillow; tifffile with imagecodecs",
            note="the first page of full size, at a reduced level of a pyramid; BigTIFF",
        ),
        Format(
            name="BMP", open=bmp.open_bmp, libraries="Pillow; NumPy for masks and RLE4",
        ),
        _plain("AVIF", frames=True),
        Format(
            name="JPEG2000", open=jpeg2000.open_jpeg2000,
            libraries="Pillow; imagecodecs for signed samples, colour or alpha of over 8 bits",
            note="decoded at a lower resolution level",
        ),
        Format(
            name="PPM", open=netpbm.open_netpbm, libraries="NumPy; Pillow for bits",
            note="PBM, PGM, PPM of any depth",
        ),
        Format(name="PAM", open=netpbm.open_netpbm, libraries="NumPy"),
        Format(name="PFM", open=netpbm.open_netpbm, libraries="NumPy"),
        _plain("TGA"), _plain("PCX"), _plain("ICO", "its largest image"),
        Format(name="QOI", open=qoi.open_qoi, libraries="imagecodecs; else Pillow, slowly"),
        _plain("SGI"),
        Format(name="DDS", open=pillow_reader.open_dds, libraries="Pillow; NumPy"),
        Format(
            name="PSD", open=psd.open_psd, libraries="NumPy, with Pillow for runs",
            note="PSD and PSB, flattened; every depth; all modes but Multichannel",
        ),
        Format(
            name="HEIF", open=heif.open_heif, open_page=heif.open_heif, libraries="pi-heif",
            note="HEIC; 8 to 12 bits",
        ),
        Format(name="JPEG XL", open=jpeg_xl.open_jpeg_xl, libraries="imagecodecs"),
        Format(
            name="HDR", open=hdr.open_hdr, libraries="imagecodecs",
            note="light above 1 is white, then the curve of sRGB",
        ),
        Format(
            name="DICOM", open=dicom.open_dicom, open_page=dicom.open_dicom,
            libraries="pydicom; imagecodecs",
            note="the first frame, with the window that the file states",
        ),
        Format(
            name="PDF", open=pdf.open_pdf, open_page=pdf.open_pdf, libraries="pypdfium2",
            note="its first page, drawn at 144 pixels to an inch or more; its size is in points",
        ),
    )
}  # fmt: skip
RAW_FORMATS = (
    "camera raw (DNG, NEF, CR2, CR3, ARW, RAF, ORF, RW2, PEF, CRW, X3F, MRW, …)",
    "rawpy",
    "the preview, where its shorter side has half of the raw's or more; else developed",
)


def open_image(data: bytes, page: int = 0) -> Opened:
    """The file with its header read and no pixel decoded.

    `page`: the number of the page or frame, from 1; 0: what is seen of the whole file.

    Raises:
      ImageError: unsupported_format, decode_error (a damaged header), truncated or not_an_image.
    """
    name = identify(data)
    if name is None:
        said = placeholder(bytes(data[:256]))
        text = said or f"no known image format; starts with {bytes(data[:16])!r}"
        raise ImageError("not_an_image", text)
    camera = name if is_raw(name) else raw.raw_tiff_name(data) if name == "TIFF" else None
    if camera is not None:
        return raw.open_raw(data, camera)
    found = FORMATS.get(name)
    if found is None:
        raise unsupported(name)
    if not page:
        return found.open(data)
    if found.open_page is None:
        raise unsupported(name, f"{name} has no pages that are read here")
    try:
        return found.open_page(data, page)
    except IndexError:
        raise ImageError("decode_error", f"the file has no page {page}", name) from None
