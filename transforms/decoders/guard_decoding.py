"""Decoding and the reading of archives with a journal: what kills its process does so only once.

An image that crashed or hung its decoder is decoded in a child process, and the members of an
archive that was being read when a process died are read in one.
"""

from __future__ import annotations

import itertools
import threading

import numpy as np

from imagecensus.model_export.preprocess import MAX_SIDE, ImageInfo, PreprocessSpec, decode_image
from imagecensus.transforms import activity, fault_injection
from imagecensus.transforms.archives.reading import Place
from imagecensus.transforms.decoders import inflight, isolate, isolate_reading
from imagecensus.transforms.read_images import read_image


class Guard:
    """The journal of a process's decoders, and the suspects that earlier processes left."""

    def __init__(self, folder: str, threads: int, seconds: float, memory: int):
        """Args:
        folder: of the journals, from `inflight.folder_for`; empty: no journal is kept.
        threads: how many will call `decode` and `read`.
        seconds, memory: bounds of one image.
        """
        self._folder, self._seconds, self._memory = folder, seconds, memory
        self._slots = itertools.count()
        self._mine = threading.local()
        self._journal = None
        self._suspects = frozenset()
        self._apart = isolate_reading.Reader(seconds, memory)
        if folder:
            try:
                self._journal = inflight.Journal(folder, threads)
            except OSError as error:
                activity.LOGGER.warning("%s: no journal of decoders: %s", folder, error)
            inflight.forget_old(folder)
            self.find_suspects()
            activity.watch(seconds)
            activity.decoders_begin()

    def find_suspects(self) -> None:
        """Looks for journals of processes that died meanwhile. Call before each unit."""
        if self._folder:
            self._suspects = inflight.read_suspects(self._folder)

    def read(
        self,
        uri: str,
        size: int,
        etag: str,
        max_bytes: int,
        container: str | None,
        member: str | None,
        place: Place | None,
    ) -> bytes:
        """See `read_image`. Suspect archives are read in a child process."""
        if self._journal is None or container is None:
            return read_image(uri, size, etag, max_bytes, container, member, place)
        digest = inflight.digest_of(container)
        if digest in self._suspects:
            return self._apart.read(uri, size, etag, max_bytes, container, member)
        slot = self._slot()
        self._journal.enter(slot, digest)
        try:
            return read_image(uri, size, etag, max_bytes, container, member, place)
        finally:
            self._journal.leave(slot)

    def decode(
        self,
        uri: str,
        data: bytes,
        spec: PreprocessSpec,
        out: np.ndarray,
        max_pixels: int,
        max_side: int = MAX_SIDE,
        gps: bool = False,
    ) -> ImageInfo:
        """See `decode_image`. Suspects are decoded in a child process."""
        if self._journal is None:
            return decode_image(data, spec, out, max_pixels, max_side, gps)
        digest = inflight.digest_of(uri)
        if digest in self._suspects:
            return isolate.decode_isolated(
                data, spec, out, max_pixels, self._seconds, self._memory, max_side, gps=gps
            )
        slot = self._slot()
        self._journal.enter(slot, digest)
        try:
            with activity.doing("decode", uri):
                fault_injection.reached("decode")
                return decode_image(data, spec, out, max_pixels, max_side, gps)
        finally:
            self._journal.leave(slot)

    def close(self) -> None:
        self._apart.close()
        if self._folder:
            activity.decoders_end()
        if self._journal:
            self._journal.close()
            self._journal = None

    def _slot(self) -> int:
        try:
            return self._mine.slot
        except AttributeError:
            self._mine.slot = next(self._slots)
            return self._mine.slot
