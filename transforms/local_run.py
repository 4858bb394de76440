"""What the launcher of a run shares with its stages, where both are in one process.

The in-process runner is the only one for which that is so, and `LOCAL_RUN` the only thing that
is shared: Beam copies what stages are made of, so they cannot be given it. Workers elsewhere have
one of their own that nobody reads or sets. A run there stops by its runner's means
(`classification.interrupts`), its progress is the parts that it has finished
(`classification.stall_log`), and what its stages took is not known.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

STAGES_TIMED = ("read", "decode", "infer", "write")


class LocalRun:
    """The run of this process.

    Attributes:
      stop: set to leave units that were not begun yet for a rerun.
      images: how many were classified.
      cpu, wall: seconds per stage.

    `cpu` and `wall` have the keys of `STAGES_TIMED`. Wall seconds of stages that run in several
    threads are added up. What the process spends beside the stages is overhead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Begins anew: one process may run several, one after the other."""
        self.stop.clear()
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
        """Adds what a decoder process spent."""
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


LOCAL_RUN = LocalRun()
