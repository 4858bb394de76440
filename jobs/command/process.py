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
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
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
    "openvino.tools.ovc",  # OpenVINO's converter of other libraries' models
)
# What Beam imports whole and a run in this process does not call: loaded once somebody does.
_LOADED_WHEN_USED = ("httplib2",)

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
        with without_unused(), _type_checker_loaded_when_used():
            import apache_beam  # noqa: F401
        from apache_beam.runners.worker import statesampler

        # At the end of a bundle Beam waits until the thread that samples stages wakes.
        statesampler.StateSampler = functools.partial(
            statesampler.StateSampler, sampling_period_ms=SAMPLING_MS
        )


@contextlib.contextmanager
def without_unused() -> Iterator[None]:
    """Within the block, imports go without what no run in this process uses."""
    with _hidden(*_UNUSED) if own_process else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _type_checker_loaded_when_used() -> Iterator[None]:
    """Within the block, Beam gets a stand-in for beartype, which takes 0.08 s to import.

    Beam asks it only about type hints that are no classes and none of Beam's own, as no stage here
    has them.
    """
    door, roar = ModuleType("beartype.door"), ModuleType("beartype.roar")

    def is_subhint(subhint: object, superhint: object) -> bool:
        return bool(importlib.import_module("beartype.door").is_subhint(subhint, superhint))

    vars(door)["is_subhint"] = is_subhint
    vars(roar)["BeartypeDoorException"] = Exception
    stand_ins = {one.__name__: one for one in (door, roar) if one.__name__ not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


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
    """Within the block these packages are not installed, as `import` sees it.

    Those of `_LOADED_WHEN_USED` are loaded when first used.
    """
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
    ) -> ModuleSpec | None:
        if name in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name not in _LOADED_WHEN_USED:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec and spec.loader:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
