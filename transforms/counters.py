"""The job's counters, declared in one place, and the live tally that progress is drawn from."""

from __future__ import annotations

import threading
import time

from apache_beam.metrics import Metrics

NAMESPACE = "imagecensus"

UNITS = Metrics.counter(NAMESPACE, "units")
IMAGES_READ = Metrics.counter(NAMESPACE, "images_read")
BYTES_READ = Metrics.counter(NAMESPACE, "bytes_read")
IMAGES_OK = Metrics.counter(NAMESPACE, "images_ok")
IMAGES_FAILED = Metrics.counter(NAMESPACE, "images_failed")
BATCHES_SPLIT = Metrics.counter(NAMESPACE, "batches_split")
PARTS_WRITTEN = Metrics.counter(NAMESPACE, "parts_written")


class Stages:
    """Wall and CPU seconds per stage of this process; stages of other processes are not seen."""

    def __init__(self):
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.images = 0
        self.failed = 0
        self.seconds = {"read": 0.0, "decode": 0.0, "infer": 0.0, "write": 0.0}
        self.started = time.monotonic()

    def add_images(self, images: int, failed: int) -> None:
        with self._lock:
            self.images += images
            self.failed += failed

    def add_seconds(self, stage: str, seconds: float) -> None:
        with self._lock:
            self.seconds[stage] += seconds


STAGES = Stages()
