"""Decoded training images: decoded once, in parallel, and kept as uint8.

Arrays live in memory up to a bound, beyond it in files of the training's work folder up to
another. Images that fit neither are read and decoded again whenever they are taken.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import xxhash

from imagecensus.model_export.common.cores import usable_cores
from imagecensus.model_export.common.quantities import format_size
from imagecensus.model_export.decoding.errors import ImageError
from imagecensus.model_export.preprocess import PreprocessSpec, configure_pillow, decode_image
from imagecensus.model_export.trained_images import hash_content, salted
from imagecensus.model_export.training.splits import DataError, Decode, Split

# Of one image: a salted hash of its file, the file's bytes, and a hash of its decoded pixels, which
# a copy with other metadata or in another lossless format has in common.
HASHES = np.dtype([("content", "<u8"), ("size", "<i8"), ("pixels", "<u8")])


@dataclasses.dataclass(kw_only=True)
class ArrayCache:
    """Allocates the large arrays of a training within two stated bounds."""

    directory: str
    memory_bytes: int
    disk_bytes: int
    used_memory: int = 0
    used_disk: int = 0

    def fits(self, shape: tuple[int, ...], dtype: type[np.generic]) -> bool:
        """Whether `allocate` has room for such an array."""
        size = _size(shape, dtype)
        in_memory = self.used_memory + size <= self.memory_bytes
        return in_memory or self.used_disk + size <= self.disk_bytes

    def allocate(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """A zeroed array in memory, or a memory-mapped file where memory's bound is reached.

        Raises:
          DataError: it fits within neither bound.
        """
        size = _size(shape, dtype)
        if self.used_memory + size <= self.memory_bytes:
            self.used_memory += size
            return np.zeros(shape, dtype)
        if not self.fits(shape, dtype):
            memory, disk, used_memory, used_disk = map(
                format_size, (self.memory_bytes, self.disk_bytes, self.used_memory, self.used_disk)
            )
            raise DataError(
                f"{name}: {format_size(size)} fit neither --cache-memory ({memory}, {used_memory}"
                f" used) nor --cache-disk ({disk}, {used_disk} used); raise one of them or lower"
                " --image-size"
            )
        self.used_disk += size
        os.makedirs(self.directory, exist_ok=True)
        path = os.path.join(self.directory, f"{name}.npy")
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _size(shape: tuple[int, ...], dtype: type[np.generic]) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken:
    """An image that was left out: `status` as in the batch job's rows."""

    name: str
    status: str
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The readable images of one split.

    Attributes:
      pixels: uint8 [M, H, W, 3]; row `rows[i]` is image i (rows of broken ones are unused).
      rows: int64 [N].
      labels: int32 [N].
      names: N.
      broken: what was left out, and why.
      hashes: `HASHES` [N]: what identifies equal images.
    """

    pixels: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    broken: tuple[Broken, ...] = ()
    hashes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, HASHES))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [len(indices), H, W, 3]."""
        return cast(np.ndarray, self.pixels[self.rows[indices]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamedImages(Images):
    """Images that are read and decoded again each time they are taken; `pixels` is empty.

    Attributes:
      reads: one for each row.
      spec: to which pixels.
      threads: that read and decode.
      decode: see `Split`.
      failures: what could be read once and no more, as messages.
    """

    reads: tuple[Callable[[], bytes], ...]
    spec: PreprocessSpec
    threads: concurrent.futures.ThreadPoolExecutor
    decode: Decode = decode_image
    failures: list[str] = dataclasses.field(default_factory=list)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [len(indices), H, W, 3]. Raises DataError, and keeps it in `failures`."""
        pixels = np.empty((len(indices), *self.spec.shape), np.uint8)

        def decode(place: int, row: int) -> None:
            self.decode(self.reads[row](), self.spec, pixels[place])

        rows = self.rows[indices].tolist()
        try:
            list(self.threads.map(decode, range(len(rows)), rows))
        except (ImageError, OSError) as error:
            self.failures.append(f"an image changed while it was trained on: {error}")
            raise DataError(self.failures[-1]) from None
        return pixels


def decode_images(
    split: Split,
    spec: PreprocessSpec,
    cache: ArrayCache,
    name: str,
    *,
    max_broken_rate: float = 0.05,
    progress: Callable[[int], object] = lambda count: None,
    salt: bytes = b"",
) -> Images:
    """Decodes a split as the batch job does.

    Args:
      split: what to decode.
      spec: to which pixels.
      cache: where they go; what it has no room for is streamed.
      name: of the split, for messages and cache files.
      max_broken_rate: share of unreadable images that is skipped; more refuses the training.
      progress: called with 1 for each image done.
      salt: of the hashes of files.

    Raises:
      DataError: too many broken images.
    """
    configure_pillow()
    shape = (len(split), *spec.shape)
    kept = cache.fits(shape, np.uint8)
    pixels = cache.allocate(f"pixels-{name}", shape, np.uint8) if kept else None
    hashes = np.zeros(len(split), HASHES)

    def broken_image(row: int, status: str, message: str) -> Broken:
        return Broken(name=split.names[row], status=status, message=message)

    def decode(row: int, read: Callable[[], bytes]) -> Broken | None:
        try:
            content = read()
            drawn = np.empty(spec.shape, np.uint8) if pixels is None else pixels[row]
            split.decode(content, spec, drawn)
        except ImageError as error:
            return broken_image(row, error.status, str(error))
        except OSError as error:
            return broken_image(row, "read_error", error.strerror or str(error))
        known = salted(hash_content(content), salt)
        hashes[row] = (known, len(content), xxhash.xxh3_64_intdigest(drawn.data))
        return None

    threads = 2 * usable_cores()  # where processes decode, some only wait
    outcomes = list(_decode_in_order(decode, split, threads, progress))
    broken = tuple(outcome for outcome in outcomes if outcome)
    if len(broken) > max_broken_rate * len(split):
        examples = "; ".join(f"{b.name}: {b.status} ({b.message})" for b in broken[:3])
        raise DataError(
            f"{len(broken)} of {len(split)} {name} images cannot be read, more than"
            f" --max-broken-rate {max_broken_rate:g}: {examples}"
        )
    good = np.asarray([row for row, outcome in enumerate(outcomes) if outcome is None], np.int64)
    columns: dict[str, Any] = {
        "rows": good,
        "labels": split.labels[good],
        "names": tuple(split.names[row] for row in good),
        "broken": broken,
        "hashes": hashes[good],
    }
    if pixels is not None:
        return Images(pixels=pixels, **columns)
    return StreamedImages(
        pixels=np.zeros((0, *spec.shape), np.uint8),
        reads=tuple(split.open()),
        spec=spec,
        threads=concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="decode"),
        decode=split.decode,
        **columns,
    )


def _decode_in_order(
    decode: Callable[[int, Callable[[], bytes]], Broken | None],
    split: Split,
    threads: int,
    progress: Callable[[int], object],
) -> Iterator[Broken | None]:
    """What `decode` returns for each image, in the split's order."""
    waiting: collections.deque[concurrent.futures.Future[Broken | None]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for row, read in enumerate(split.open()):
            waiting.append(pool.submit(decode, row, read))
            # A short window: a source that hands out bytes is not read far ahead.
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
                progress(1)
        for future in waiting:
            yield future.result()
            progress(1)
