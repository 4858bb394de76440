"""Pages of PDF, drawn by PDFium (pypdfium2).

A page has no pixels: its size is stated in points, 72 to an inch. It is drawn with 144 pixels to an
inch, or more where the model needs them, over white, with its annotations and filled forms. Fonts
of the machine are not used, so that a page looks alike everywhere: what a file does not embed is
drawn in PDFium's own fonts.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import threading
from collections.abc import Iterator
from typing import Any

from imagecensus.model_export.decoding.errors import ImageError, needs_extra, truncated, unsupported
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels

_USUAL = 2.0  # pixels to a point
_MOST_PIXELS, _LONGEST_SIDE = 20_000_000, 16_384  # of a drawing, whatever shape a page has
_PASSWORD, _SECURITY = 4, 5  # errors of PDFium
_one_at_a_time = threading.Lock()  # PDFium is not made for threads


def count_pages(data: bytes) -> int:
    """Pages of a file. Raises ImageError."""
    with _opened(data) as file:
        return len(file)


def open_pdf(data: bytes, number: int = 0) -> Opened:
    """The first page, or that of the number."""
    with _opened(data) as file:
        pages = len(file)
        if number > pages:
            raise IndexError
        width, height = _page(file, number).get_size()

    def load(need: Need) -> LoadedImage:
        with _opened(data) as file:
            page = _page(file, number)
            scale = _scale((width, height), need(1))
            drawn = page.render(scale=scale, rev_byteorder=True).to_numpy()
            image = from_pixels(drawn.copy(), colours=3)
        return LoadedImage(image=image, pages=1 if number else pages)

    sides = (max(1, round(side)) for side in (width, height))
    return Opened(format="PDF", width=next(sides), height=next(sides), load=load)


def _scale(size: tuple[float, float], least: tuple[int, int]) -> float:
    """Pixels to a point: both sides have `least` pixels, within the limits."""
    width, height = size
    wanted = max(_USUAL, least[0] / width, least[1] / height)
    return min(wanted, math.sqrt(_MOST_PIXELS / (width * height)), _LONGEST_SIDE / max(size))


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """The document, for this thread alone. Raises ImageError: it is encrypted, cut or damaged."""
    with _one_at_a_time:
        pdfium = _pdfium()
        try:
            file = pdfium.PdfDocument(data)
        except pdfium.PdfiumError as error:
            raise _why(error, data) from None
        with file:
            # PDFium draws what it finds of a cut file, as if there were no more.
            if b"%%EOF" not in data[-1024:].rstrip(b"\0"):
                raise truncated("PDF", "its end mark is not there")
            with contextlib.suppress(pdfium.PdfiumError):  # the page is drawn without its forms
                file.init_forms()
            yield file


def _page(file: Any, number: int) -> Any:
    if not len(file):
        raise ImageError("decode_error", "the PDF has no pages", "PDF")
    try:
        page = file[max(number, 1) - 1]
    except RuntimeError as error:
        raise ImageError("decode_error", f"the page is damaged: {error}", "PDF") from None
    if min(page.get_size()) <= 0:
        raise ImageError("decode_error", "the page has no size", "PDF")
    return page


def _why(error: Any, data: bytes) -> ImageError:
    if error.err_code == _PASSWORD:
        return ImageError("permission_denied", "the PDF is encrypted with a password", "PDF")
    if error.err_code == _SECURITY:
        return unsupported("PDF", "the PDF is encrypted in a way that is not read here")
    if b"%%EOF" not in data[-1024:]:
        return truncated("PDF", "its end mark is not there")
    return ImageError("decode_error", f"the PDF is damaged: {error}", "PDF")


@functools.cache
def _pdfium() -> Any:
    """The library, begun anew without folders of fonts. Raises ImageError: it is not installed."""
    try:
        import pypdfium2
    except ImportError:
        raise needs_extra("PDF") from None
    raw = pypdfium2.raw
    no_fonts = (ctypes.POINTER(ctypes.c_char) * 1)()
    raw.FPDF_DestroyLibrary()
    raw.FPDF_InitLibraryWithConfig(raw.FPDF_LIBRARY_CONFIG(version=2, m_pUserFontPaths=no_fonts))
    return pypdfium2
