"""TIFF: which page, which library, and whether all of its data is there.

Pillow reads what `_pillow_reads` names, with libtiff for what is compressed; tifffile with
imagecodecs the rest. Orientation is set to 1 before either sees the page, as both would turn it.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from imagecensus.model_export.decoding import colour, depth
from imagecensus.model_export.decoding.errors import ImageError, needs_extra, unsupported
from imagecensus.model_export.decoding.metadata import exif_of
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels
from imagecensus.model_export.decoding.readers import tiff_tags
from imagecensus.model_export.decoding.readers.pillow_reader import fill_depth, open_with_pillow
from imagecensus.model_export.decoding.readers.tiff_damage import (
    PNG,
    check_data,
    check_sums,
    damage_raised,
    listen_to_libtiff,
)
from imagecensus.model_export.decoding.readers.tiff_samples import (
    LAB,
    from_indexes,
    from_samples,
    stated_range,
)
from imagecensus.model_export.decoding.readers.tiff_tags import Page, Tiff

_JPEG, _OLD_JPEG, _GROUP4, _UNCOMPRESSED = 7, 6, 4, 1
_PILLOW_COMPRESSIONS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 50000))


def open_tiff(data: bytes, number: int = 0) -> Opened:
    """The first page of full size (or the only one), or the page of that number, from 1."""
    try:
        tiff = tiff_tags.read_tiff(data)
    except tiff_tags.TagError as error:
        raise ImageError("decode_error", f"the TIFF header is damaged: {error}", "TIFF") from None
    page = tiff.full_pages[number - 1] if number else choose_page(tiff)
    width, height = page.size
    if page.get(tiff_tags.IMAGE_DEPTH, 1) > 1:
        raise unsupported("TIFF", "TIFF with volumes is not read here")
    check_data(data, page)

    def load(need: Need) -> LoadedImage:
        orientation = page.get(tiff_tags.ORIENTATION, 1)
        orientation = orientation if 1 <= orientation <= 8 else 1
        level = _level(tiff, page, need(orientation))
        check_data(data, level)
        chosen = tiff_tags.with_first_page(data, tiff, level, upright=True)
        loaded = _load_page(chosen, tiff, level)
        loaded.orientation = orientation
        loaded.exif = exif_of(data) if not tiff.big else None
        loaded.pages = len(tiff.full_pages) if not number else 1
        return loaded

    return Opened(format="TIFF", width=width, height=height, load=load)


def choose_page(tiff: Tiff) -> Page:
    """The first page, unless it is a reduced version: then the first of full size.

    Where all say that they are reduced, the largest.
    """
    if not tiff.pages[0].is_reduced:
        return tiff.pages[0]
    pages = [p for p in (*tiff.pages, *tiff.sub_pages) if all(p.size) and not p.is_mask]
    full = [page for page in pages if not page.is_reduced]
    if full or not pages:
        return full[0] if full else tiff.pages[0]
    return max(pages, key=lambda page: page.size[0] * page.size[1])


def _level(tiff: Tiff, page: Page, need: tuple[int, int]) -> Page:
    """The smallest reduced version of a page that keeps both sides at least as large as needed."""
    if page.offset != tiff.pages[0].offset:
        return page
    levels = [
        other
        for other in (*tiff.pages[1:32], *tiff.sub_pages)
        if other.is_reduced
        and not other.is_mask
        and all(side >= least for side, least in zip(other.size, need, strict=True))
        and abs(other.size[0] * page.size[1] / (other.size[1] * page.size[0]) - 1) < 0.01
        and other.get(tiff_tags.PHOTOMETRIC) == page.get(tiff_tags.PHOTOMETRIC)
        and other.tags.get(tiff_tags.BITS) == page.tags.get(tiff_tags.BITS)
    ]
    return min([page, *levels], key=lambda other: other.size[0])


def _pillow_reads(tiff: Tiff, page: Page) -> bool:
    bits = page.tags.get(tiff_tags.BITS, (1,))
    formats = set(page.tags.get(tiff_tags.SAMPLE_FORMAT, (1,)))
    photometric, samples = page.get(tiff_tags.PHOTOMETRIC), page.get(tiff_tags.SAMPLES, 1)
    compression = page.get(tiff_tags.COMPRESSION, 1)
    if compression not in _PILLOW_COMPRESSIONS or len(set(bits)) > 1 or len(formats) > 1:
        return False
    depth_of, [kind] = bits[0], formats
    little = tiff.order == "<"
    if tiff.big and not little:
        return False
    stated = tiff_tags.MAX_SAMPLE in page.tags and depth_of > 8
    if samples == 1 and photometric in (0, 1) and not stated:
        if kind == 1 and (depth_of <= 8 or (photometric == 1 and depth_of == 12 and little)):
            return depth_of in (1, 2, 4, 8, 12)
        # Pillow swaps the bytes of big-endian samples that libtiff has swapped already.
        native = little or compression == _UNCOMPRESSED or (depth_of, kind) == (16, 1)
        return photometric == 1 and native and (depth_of, kind) in (
            (16, 1), (16, 2), (32, 2), (32, 3),
        )  # fmt: skip
    contiguous = page.get(tiff_tags.PLANAR, 1) == 1
    if kind == 1 and _is_deep_colour(page):
        return contiguous
    if kind != 1 or depth_of > 8:
        return False
    if photometric == 3:
        return samples == 1
    if photometric == 6:
        return compression in (_JPEG, _OLD_JPEG)
    if depth_of != 8:
        return False
    if photometric == 1:
        return samples == 2 and contiguous
    if not contiguous and 1 in page.tags.get(tiff_tags.EXTRA_SAMPLES, ()):
        return False  # colours that are multiplied by their alpha, each in a plane
    return photometric in (2, 5) or (photometric == 8 and samples == 3)


def _is_deep_colour(page: Page) -> bool:
    """RGB or RGBA of 16 bits."""
    bits, extra = page.tags.get(tiff_tags.BITS, (1,)), page.tags.get(tiff_tags.EXTRA_SAMPLES, ())
    if page.get(tiff_tags.PHOTOMETRIC) != 2 or bits[0] != 16:
        return False
    return len(bits) == 3 or (len(bits) == 4 and extra in ((0,), (2,)))


def _load_page(data: bytes, tiff: Tiff, page: Page) -> LoadedImage:
    if _pillow_reads(tiff, page):
        with contextlib.suppress(UnidentifiedImageError):
            image = Image.open(io.BytesIO(data), formats=("TIFF",))
            _check_size(image.size, page)
            _repair_palette(image, page)
            listen_to_libtiff()
            with damage_raised():
                image.load()
                check_sums(data, page)
                loaded = _from_pillow(image, page)
                if _is_deep_colour(page):
                    stated = stated_range(np.uint16, page, 16)
                    fill_depth(loaded, image, lambda: open_with_pillow(data, "TIFF"), stated)
            return loaded
    return _load_with_tifffile(data, page)


def _check_size(size: tuple[int, int], page: Page) -> None:
    """Raises ImageError where a library reads another size of the header than the limits saw."""
    if size != page.size:
        text = f"the TIFF header is damaged: its size reads as {size} and as {page.size}"
        raise ImageError("decode_error", text, "TIFF")


def _repair_palette(image: Image.Image, page: Page) -> None:
    """Colour maps whose values are of 8 bits, where 16 are prescribed."""
    values = page.tags.get(tiff_tags.COLORMAP, ())
    if image.mode == "P" and values and 0 < max(values) < 256:
        count = len(values) // 3
        palette = np.array(values, np.uint8).reshape(3, count).T
        image.putpalette(palette.tobytes(), "RGB")


def _from_pillow(image: Image.Image, page: Page) -> LoadedImage:
    icc = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        bits = page.tags.get(tiff_tags.BITS, (1,))[0]
        stated = (0.0, float((1 << bits) - 1)) if bits == 12 else None
        pixels, scaled = depth.to_eight_bits(np.asarray(image), stated)
        return LoadedImage(image=from_pixels(pixels, colours=1), icc=icc, depth_scaled=scaled)
    flat = colour.flatten(image, icc)
    return LoadedImage(image=flat, icc=icc if image.mode not in ("CMYK", "LAB") else None)


def _load_with_tifffile(data: bytes, page: Page) -> LoadedImage:
    photometric = page.get(tiff_tags.PHOTOMETRIC)
    try:
        import imagecodecs  # noqa: F401 — tifffile's decoders
        import tifffile
    except ImportError:
        raise needs_extra("TIFF", "TIFF of this depth, colour or compression") from None
    if photometric not in (0, 1, 2, 3, 5, *LAB) or (photometric == 5 and page.get(258) > 16):
        return _load_as_rgb(data)
    if page.get(tiff_tags.COMPRESSION, 1) == PNG:
        check_sums(data, page)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            first = file.pages[0]
            _check_size((first.imagewidth, first.imagelength), page)
            samples = first.asarray()
            colormap = first.colormap if photometric == 3 else None
    except (ValueError, NotImplementedError, KeyError) as error:
        if photometric == 5 or page.get(tiff_tags.BITS, 1) > 8:
            raise unsupported("TIFF", f"TIFF of this kind is not read here: {error}") from None
        return _load_as_rgb(data)
    if samples.ndim > 3:
        raise unsupported("TIFF", "TIFF with volumes is not read here")
    if page.get(tiff_tags.PLANAR, 1) == 2 and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    if colormap is not None:
        return from_indexes(samples, colormap, page)
    return from_samples(samples, page)


def _load_as_rgb(data: bytes) -> LoadedImage:
    """What libtiff makes RGBA of: YCbCr, LogLuv, and others of up to 8 bits."""
    import imagecodecs

    try:
        pixels = imagecodecs.tiff_decode(data, asrgb=True)
    except Exception as error:
        raise unsupported("TIFF", f"TIFF of this kind is not read here: {error}") from None
    return LoadedImage(image=from_pixels(np.asarray(pixels), colours=3))
