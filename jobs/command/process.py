"""A quick start and end for processes that run one job: what nobody uses is not imported.

A third of a second counts when one image is asked for. Beam imports every connector it finds
(BigQuery, MongoDB, Dataflow's clients ...) and pyarrow imports pandas when first handed a list; a
job run in this process uses neither, and together they cost more than all else it imports.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NoReturn

# What importing Beam drags in for connectors and services that a run in this process does not use.
# Beam does without each, as on machines where they are not installed.
_UNUSED = (
    "pandas",
    "apache_beam.io.gcp",
    "google.cloud.dataflow",
    "google.cloud.dataflow_v1beta3",
    "apitools",
    "oauth2client",
    "pymongo",
    "bson",
    "boto3",
    "azure",
)

# How often Beam looks which stage is at work: nothing here reads that.
SAMPLING_MS = 10

# True in a process started as a command, which nothing else shares. Tests, notebooks and services
# that call `main` keep their imports whole.
own_process = False

# True where Beam started a server beside this process, which outlives it unless it is stopped.
server_beside = False


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within the block nothing is collected as garbage, and later not what was imported in it.

    That saves 0.1 s of the 1.7 s that a few images take.
    """
    if not own_process:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_beam() -> None:
    """Imports Beam for a run inside this process, without connectors where nobody can miss them."""
    if own_process:
        with _hidden(*_UNUSED):
            import apache_beam  # noqa: F401
        from apache_beam.runners.worker import statesampler

        # At the end of a bundle Beam waits until the thread that samples stages wakes.
        statesampler.StateSampler = functools.partial(
            statesampler.StateSampler, sampling_period_ms=SAMPLING_MS
        )


def skip_pandas() -> None:
    """Lets pyarrow conclude, once and for all, that there is no pandas to make room for."""
    if own_process:
        with _hidden("pandas"):
            import pyarrow

            pyarrow.array([0])


def cpu_at_start() -> float:
    """CPU seconds of this process that are not this job's."""
    return 0.0 if own_process else time.process_time()


def release_memory() -> None:
    """Gives back what was freed, before something else that is large begins."""
    import pyarrow

    gc.collect()
    pyarrow.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # of glibc only
        ctypes.CDLL(None).malloc_trim(0)


def leave(code: int) -> NoReturn:
    """Ends this process without freeing one by one what the operating system frees at once."""
    if server_beside:
        atexit._run_exitfuncs()  # Beam's own, which stops its job server
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            if stream is sys.stdout and code == 0 and not isinstance(error, BrokenPipeError):
                code = 1
                print(f"imagecensus: standard output: {error.strerror}", file=sys.stderr)
    os._exit(code)


@contextlib.contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Within the block these packages are not installed, as far as `import` can tell."""
    finder = _Absent(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Absent:
    def __init__(self, names: tuple[str, ...]):
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
