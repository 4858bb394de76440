"""A number that each run raises, so that workers of an earlier one notice that they are late.

A launcher that dies leaves its job running: its workers hold no lock. Before they begin a unit, and
before they write its part, they look whether a later run has raised the number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time

from imagecensus.transforms.storage import store

_TRIES = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fence:
    """What a run's workers hold: its number, and where a later run's would be.

    Attributes:
      epochs: location of a number → what it was when the run began. A shard looks at that of runs
        over everything, too.
      signs: where workers leave a sign of life; empty: they leave none.
    """

    epochs: dict[str, int]
    signs: str = ""

    def is_held(self) -> bool:
        """Whether no later run has begun. Raises StorageError or OSError."""
        return all(_epoch_at(location) <= epoch for location, epoch in self.epochs.items())

    def sign(self, period: float) -> None:
        """Leaves a sign of life where the last one is older than so many seconds."""
        if self.signs and not self._is_recent(period):
            with contextlib.suppress(store.StorageError):  # another worker's will do
                store.write(self.signs, json.dumps(self.epochs).encode())

    def _is_recent(self, period: float) -> bool:
        try:
            return abs(time.time() - store.stat(self.signs).modified) < period
        except OSError:
            return False


def raise_epoch(location: str, run_id: str) -> int:
    """Begins a run: raises the number, of which workers of earlier runs take notice.

    Raises StorageError, or ConflictError where another run does the same now.
    """
    for last in range(_TRIES):
        epoch, version = 0, ""
        with contextlib.suppress(FileNotFoundError):
            data, version = store.read_versioned(location)
            epoch = _epoch_in(data)
        record = json.dumps({"epoch": epoch + 1, "run_id": run_id}).encode()
        try:
            store.write(location, record, create_only=not version, if_match=version)
            return epoch + 1
        except store.ConflictError:  # or our own write, whose answer was lost
            with contextlib.suppress(OSError, ValueError):
                found = json.loads(store.read(location))
                if found.get("run_id") == run_id:
                    return int(found["epoch"])
            if last == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def fence_of(own: str, whole: str, epoch: int, signs: str = "") -> Fence:
    """The fence of a run that has raised the number at `own`."""
    others = {} if own == whole else {whole: _epoch_at(whole)}
    return Fence(epochs={own: epoch, **others}, signs=signs)


def _epoch_at(location: str) -> int:
    """The number; 0 where there is none."""
    try:
        return _epoch_in(store.read(location))
    except FileNotFoundError:
        return 0


def _epoch_in(data: bytes) -> int:
    try:
        return int(json.loads(data)["epoch"])
    except (ValueError, KeyError, TypeError):
        return 0  # damaged: the next run writes a new one
