"""One batch of images, read and decoded: the same for the job, for `predict` and for services.

Beam is not needed for it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Sequence
from typing import Any

from imagecensus.model_export.common import fault_injection
from imagecensus.model_export.decoding.errors import ImageError
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.transforms import activity
from imagecensus.transforms.activity import doing
from imagecensus.transforms.archives.reading import as_stored, is_sequential
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.decoders.pool import decode_config, place_of
from imagecensus.transforms.decoders.requests import Answer, Request
from imagecensus.transforms.engines.registry import has_gpu
from imagecensus.transforms.image_ref import ImageRef, Limits
from imagecensus.transforms.local_run import LOCAL_RUN
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.records import GPS_FACTS, ImageBatch
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.web.policy import WebPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How images are decoded; the same on every worker.

    Engines cut batches to their own size. The larger a batch, the less often a core waits for its
    last call (measured: docs/performance.md), and the more memory the window takes.
    """

    spec: PreprocessSpec
    limits: Limits = Limits()
    batch_images: int = 0  # 0: see `batch`
    window_batches: int = 2  # decoded or being decoded, beyond the one in the model
    threads: int = 0  # decoder processes; 0: one per core
    fetch_threads: int = 64  # readers ahead of the decoders, for stores and the web only
    web: WebPolicy = WebPolicy()  # how web addresses are read
    facts: tuple[str, ...] = ()  # columns of `FACT_TYPES` that are kept

    @property
    def batch(self) -> int:
        """Images that the model gets at once: for a GPU two of its largest calls."""
        return self.batch_images or (512 if has_gpu() else 128)


class Pools:
    """What decodes in one process: decoder processes, and threads that read where a network waits.

    Attributes:
      decoders: the processes; other users of this process may share them.
      fetch: the threads.
      config: how images are decoded, as requests carry it.
    """

    def __init__(self, config: DecodingConfig) -> None:
        self._stack = contextlib.ExitStack()
        limits = config.limits
        self.decoders = self._stack.enter_context(lease(limits, config.threads))
        self.decoders.start()
        self.config = decode_config(
            config.spec, limits, gps=any(name in config.facts for name in GPS_FACTS),
            xxh128="xxh128" in config.facts,
        )  # fmt: skip
        self.fetch = concurrent.futures.ThreadPoolExecutor(config.fetch_threads, "fetch")

    def close(self) -> None:
        self.fetch.shutdown(cancel_futures=True)
        self._stack.close()


class Pending:
    """One batch being read and decoded.

    Files on disk are read by the decoder processes. What lies elsewhere is read by threads, as
    reading waits; but archives that have to be read front to back by one process, in order.
    """

    def __init__(
        self, batch: ImageBatch, config: DecodingConfig, pools: Pools,
        given: Sequence[bytes | ImageError] = (),
    ) -> None:  # fmt: skip
        """Args:
        batch: see `ImageBatch.of`.
        config: images are decoded.
        pools: what decodes them.
        given: of each row its file, or why there is none; empty: they are read.
        """
        self._batch, self._config, self._pools = batch, config, pools
        self._spent = {"read": [0.0, 0.0], "decode": [0.0, 0.0]}  # wall and CPU seconds
        self._defect: Exception | None = None
        self._left = len(batch)
        self._change, self._decoded = threading.Lock(), threading.Event()
        names = ("uri", "size", "etag_or_mtime", "container", "member")
        columns = [batch.refs.column(name).to_pylist() for name in names]
        self._images = [
            ImageRef(uri=uri, size=size, etag=etag, container=container, member=member)
            for uri, size, etag, container, member in zip(*columns, strict=True)
        ]
        requests = (
            [self._begin_given(row, data) for row, data in enumerate(given)]
            if given
            else [self._begin(row, ref) for row, ref in enumerate(self._images)]
        )
        pools.decoders.submit([request for request in requests if request])

    def _begin_given(self, row: int, data: bytes | ImageError) -> Request | None:
        if isinstance(data, ImageError):
            self._done(row, Answer(error=data))
            return None
        return self._decoding(row, data=data)

    def _begin(self, row: int, ref: ImageRef) -> Request | None:
        """The first request for a row; None: a thread reads it first."""
        if ref.member is not None and is_sequential(ref.member):
            return Request(
                call="read", done=functools.partial(self._read, row), ref=ref,
                max_bytes=self._config.limits.max_bytes, seconds=self._config.limits.decode_seconds,
                pin=ref.container or "", place=place_of(ref),
            )  # fmt: skip
        if store.is_remote(ref.uri):
            self._pools.fetch.submit(self._fetch, row, ref)
            return None
        return self._decoding(row, ref=ref, max_bytes=self._config.limits.max_bytes)

    def _decoding(self, row: int, **source: Any) -> Request:
        return Request(
            call="decode", done=functools.partial(self._done, row),
            seconds=self._config.limits.decode_seconds,
            out=self._batch.pixels[row], config=self._pools.config, **source,
        )  # fmt: skip

    def _fetch(self, row: int, ref: ImageRef) -> None:
        """Reads a row in this thread, and has it decoded."""
        try:
            with doing("read", ref.uri), LOCAL_RUN.measure("read"):
                fault_injection.reached("read")
                where = None if ref.member is None else as_stored(ref.member)
                data = read_image(
                    dataclasses.replace(ref, member=where), self._config.limits.max_bytes
                )
            packed = ref if where != ref.member else None
            self._pools.decoders.submit([self._decoding(row, data=data, ref=packed)])
        except Exception as error:
            self._done(row, Answer(error=error))

    def _read(self, row: int, answer: Answer) -> None:
        """A member was read: it is decoded, by whichever process has time."""
        if answer.data is None:
            self._done(row, answer)
            return
        self._add_spent(row, answer)
        decoders, held = self._pools.decoders, len(answer.data)
        decoders.hold(held)
        decoders.submit([self._decoding(row, data=answer.data, held=held)])

    def _done(self, row: int, answer: Answer) -> None:
        """Keeps what became of a row."""
        try:
            self._add_spent(row, answer)
            with self._change:
                self._batch.keep(row, answer)
        except Exception as defect:
            self._defect = defect
        with self._change:
            self._left -= 1
            if not self._left:
                self._decoded.set()

    def _add_spent(self, row: int, answer: Answer) -> None:
        for stage, (wall, cpu) in answer.spent.items():
            with self._change:
                self._spent[stage][0] += wall
                self._spent[stage][1] += cpu
            activity.note(stage, self._images[row].uri, wall)

    def result(self) -> ImageBatch:
        """Waits until the batch is decoded."""
        if self._images:
            self._decoded.wait()
        if self._defect:
            raise self._defect
        for stage, (wall, cpu) in self._spent.items():
            LOCAL_RUN.add_elsewhere(stage, cpu, wall)
        self._batch.drop_unread()
        return self._batch
