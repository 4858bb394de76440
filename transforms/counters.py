"""The job's counters, declared in one place, and the live tally that progress is drawn from."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from apache_beam.metrics import Metrics

from imagecensus.model_export.preprocess import ImageInfo
from imagecensus.transforms.engines.registry import ENGINES

NAMESPACE = "imagecensus"
STAGES_TIMED = ("read", "decode", "infer", "write")

UNITS = Metrics.counter(NAMESPACE, "units")
IMAGES_READ = Metrics.counter(NAMESPACE, "images_read")
BYTES_READ = Metrics.counter(NAMESPACE, "bytes_read")
IMAGES_OK = Metrics.counter(NAMESPACE, "images_ok")
IMAGES_FAILED = Metrics.counter(NAMESPACE, "images_failed")
BATCHES_SPLIT = Metrics.counter(NAMESPACE, "batches_split")
# Of runs whose workers choose their engine: the images that each engine was given.
IMAGES_BY_ENGINE = {name: Metrics.counter(NAMESPACE, f"images_in_{name}") for name in ENGINES}
PARTS_WRITTEN = Metrics.counter(NAMESPACE, "parts_written")
UNITS_FENCED = Metrics.counter(NAMESPACE, "units_fenced")  # a later run has begun: not done
IMAGES_COPIED = Metrics.counter(NAMESPACE, "images_copied")  # answered as a copy before
IMAGES_SLOW = Metrics.counter(NAMESPACE, "images_slow")  # over a second to read or to decode
# What was done to images, or not, that a person may want to know of: see docs/formats.md.
NOTED = {
    name: Metrics.counter(NAMESPACE, name)
    for name in ("images_depth_scaled", "images_colour_converted", "images_with_more_pages")
}
SLOW = Metrics.string_set(NAMESPACE, "slow")  # which, as JSON: uri, stage, seconds


def noted_of(info: ImageInfo) -> tuple[str, ...]:
    """The counters of `NOTED` that an image counts in."""
    said = (info.depth_scaled, info.colour_converted, (info.pages or 1) > 1)
    return tuple(name for name, so in zip(NOTED, said, strict=True) if so)


class Stages:
    """CPU and wall seconds per stage of this process; stages of other processes are not seen.

    `cpu` and `wall` have the keys of `STAGES_TIMED`. Wall seconds of stages that run in several
    threads are added up. What the process spends beside the stages is overhead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.images = 0
        self.cpu = dict.fromkeys(STAGES_TIMED, 0.0)
        self.cpu_elsewhere = 0.0  # of that, in decoder processes
        self.wall = dict.fromkeys(STAGES_TIMED, 0.0)
        self.ready_cpu, self.ready_wall = time.process_time(), time.monotonic()

    def ready(self) -> None:
        """Marks the end of starting up: the model is loaded."""
        self.ready_cpu, self.ready_wall = time.process_time(), time.monotonic()

    def add_images(self, images: int) -> None:
        with self._lock:
            self.images += images

    def add(self, stage: str, cpu: float, wall: float) -> None:
        with self._lock:
            self.cpu[stage] += cpu
            self.wall[stage] += wall

    def add_elsewhere(self, stage: str, cpu: float, wall: float) -> None:
        """Books what a decoder process spent."""
        with self._lock:
            self.cpu_elsewhere += cpu
        self.add(stage, cpu, wall)

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Counts the block for a stage: this thread's CPU seconds."""
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.add(stage, time.thread_time() - cpu, time.perf_counter() - wall)

    @contextlib.contextmanager
    def measure_process(self, stage: str) -> Iterator[None]:
        """Counts the block for a stage whose threads are not ours to ask: an engine's.

        That is what the whole process used meanwhile, less what the reading threads did.
        """
        wall, cpu = time.perf_counter(), time.process_time() - self._threads_cpu()
        yield
        cpu = time.process_time() - self._threads_cpu() - cpu
        self.add(stage, cpu, time.perf_counter() - wall)

    def _threads_cpu(self) -> float:
        return self.cpu["read"] + self.cpu["decode"] - self.cpu_elsewhere


STAGES = Stages()
