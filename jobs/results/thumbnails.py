"""Small images for people to look at, made from untrusted files.

A thumbnail is pixels only: the file is decoded by the job's own decoder and the pixels are
encoded anew, so that nothing else of the file (EXIF text, profiles, trailing bytes) reaches a
page. Files that the job could not use are decoded by processes of their own.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagecensus.model_export.image_formats import ImageError
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.transforms.archives.reading import is_sequential
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.dataset.work_plan import find_references
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.decoders.look_into import read_reference
from imagecensus.transforms.decoders.pool import Pool
from imagecensus.transforms.image_ref import ImageRef, Limits
from imagecensus.transforms.read_images import read_image

MAX_FILE_BYTES = 64 * 2**20
THREADS = 4
# Failures of which something may be left to draw. Those that killed or hung a decoder are not
# tried again, and storage that failed is not asked again.
DRAWN_STATUSES = ("too_large", "truncated", "decode_error", "inference_error")
FAILURES_AT_ONCE, ALL_FAILURES_SECONDS = 2, 15
OF_FAILURES = Limits(  # memory, the libraries' included, and time are the limit
    max_pixels=1 << 40, max_side=1 << 40, decode_seconds=5, decode_memory=768 << 20
)


_T = TypeVar("_T")


class Images:
    """The bytes of a table's images; the plan says where those in archives are."""

    def __init__(self, output: str):
        """Args:
        output: the output folder of `classify`.
        """
        self._state = Layout(output=output).state
        self._known: dict[str, dict[str, Any]] = {}

    def locate(self, uris: list[str]) -> None:
        """Looks up many images at once, which is quicker than one by one."""
        # Only the plan can tell a member of an archive from a file with such a name.
        missing = [uri for uri in uris if "#" in uri and uri not in self._known]
        if missing:
            self._known.update(find_references(self._state, missing))

    def read(self, uri: str) -> bytes:
        """Raises ImageError."""
        self.locate([uri])
        found = self._known.get(uri)
        if not found or found["container"] is None:
            return read_image(ImageRef(uri=uri), MAX_FILE_BYTES)
        return read_reference(ImageRef.of({**found, "uri": uri}), MAX_FILE_BYTES)

    def is_sequential(self, uri: str) -> bool:
        """Whether it is a member of an archive that is best read front to back."""
        found = self._known.get(uri)
        return bool(found and found["container"] is not None and is_sequential(found["member"]))

    def map(self, look: Callable[[str], _T], uris: Iterable[str], threads: int) -> dict[str, _T]:
        """What `look` says of each image; those that are `is_sequential` come in their order."""
        once = list(dict.fromkeys(uris))
        self.locate(once)
        found = {uri: look(uri) for uri in self._front_to_back(once)}
        rest = [uri for uri in once if uri not in found]
        with ThreadPoolExecutor(threads) as pool:
            return found | dict(zip(rest, pool.map(look, rest), strict=True))

    def _front_to_back(self, uris: Iterable[str]) -> list[str]:
        """Those of the images that are `is_sequential`, in the order to read them in."""

        def position(uri: str) -> tuple[Any, ...]:
            found = self._known[uri]
            return (found["container"], *json.loads(found["member"])[1:3])

        return sorted(filter(self.is_sequential, uris), key=position)


def make_thumbnail(data: bytes, side: int) -> bytes:
    """A JPEG of `side` x `side` pixels, the centre of the image in `data`.

    Raises:
      ImageError: it cannot be decoded.
    """
    spec = PreprocessSpec(height=side, width=side, crop="center")
    pixels = np.empty(spec.shape, np.uint8)
    with lease() as decoders:
        decoders.decode(data, spec, pixels)
    return _jpeg(pixels)


def make_thumbnails(images: Images, uris: list[str], side: int) -> dict[str, bytes]:
    """The thumbnails of those images that can be read, by uri."""

    def attempt(uri: str) -> bytes | None:
        try:
            return make_thumbnail(images.read(uri), side)
        except ImageError:
            return None

    with lease():
        made = images.map(attempt, uris, THREADS)
    return {uri: thumbnail for uri, thumbnail in made.items() if thumbnail}


def draw_failures(images: Images, uris: list[str], side: int) -> dict[str, bytes]:
    """Thumbnails of what can be drawn of images that failed, by uri.

    A file that ends too early is drawn as far as it goes, one too large for the job at reduced
    size. They are decoded by processes with bounded time and memory, and after
    `ALL_FAILURES_SECONDS` no more are tried. Members of archives that have to be read front to
    back are left out: what lies before them may be anything.
    """
    uris = list(dict.fromkeys(uris))
    images.locate(uris)
    deadline = time.monotonic() + ALL_FAILURES_SECONDS

    def attempt(uri: str) -> bytes | None:
        if images.is_sequential(uri) or time.monotonic() > deadline:
            return None
        try:
            return _draw_leniently(decoders, images.read(uri), side)
        except ImageError:
            return None

    with (
        lease(OF_FAILURES, FAILURES_AT_ONCE) as decoders,
        ThreadPoolExecutor(FAILURES_AT_ONCE) as pool,
    ):
        drawn = dict(zip(uris, pool.map(attempt, uris), strict=True))
    return {uri: thumbnail for uri, thumbnail in drawn.items() if thumbnail}


def _draw_leniently(pool: Pool, data: bytes, side: int) -> bytes | None:
    """None where the file shows nothing but one colour. Raises ImageError."""
    spec = PreprocessSpec(height=side, width=side, crop="center")
    pixels = np.empty(spec.shape, np.uint8)
    pool.decode(data, spec, pixels, lenient=True)
    blank = (pixels == pixels[0, 0]).all()
    return None if blank else _jpeg(pixels)


def make_view(data: bytes, longest: int) -> bytes:
    """A JPEG of the whole image, its longer side at most `longest` pixels. Raises ImageError."""
    with lease() as decoders:
        width, height = _upright_size(decoders, data)
        scale = min(longest / max(width, height), 1.0)
        width, height = max(round(width * scale), 1), max(round(height * scale), 1)
        pixels = np.empty((height, width, 3), np.uint8)
        decoders.decode(data, PreprocessSpec(height=height, width=width), pixels)
    return _jpeg(pixels)


def _upright_size(decoders: Pool, data: bytes) -> tuple[int, int]:
    """Width and height as shown, after EXIF orientation. Raises ImageError."""
    smallest = PreprocessSpec(height=1, width=1)  # many formats are turned with their pixels only
    info = decoders.decode(data, smallest, np.empty(smallest.shape, np.uint8))
    turned = info.orientation in (5, 6, 7, 8)
    return (info.height, info.width) if turned else (info.width, info.height)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
