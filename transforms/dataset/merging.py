"""The record of a merge of parts that is under way: which files count for those who read meanwhile.

A merge writes new parts and a new plan beside the old ones. Until it is done only the old ones
count, then only the new ones; the record says which, and is removed when the others are gone.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from imagecensus.transforms.storage import store

PARTS, STATE = "predictions", "_imagecensus"  # folders of an output
_RECORD = "compaction.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge:
    """A merge that was begun.

    Attributes:
      id: what the names of its parts and plan files begin with.
      done: whether its files count, and the others do not.
      beside: its parts lie in the folder of the others; else in one that took its place, at once.
      kept: names of other parts that count still.
    """

    id: str
    done: bool
    beside: bool
    kept: frozenset[str] = frozenset()

    def is_own(self, name: str) -> bool:
        """Whether a file is one of those that the merge writes."""
        return name.startswith((f"part-{self.id}-", f"plan-{self.id}-"))

    def counts(self, name: str) -> bool:
        """Whether a part or plan file counts now."""
        return self.is_own(name) == self.done or name in self.kept

    def begin(self, state: str) -> str:
        """Writes the record; returns its version.

        Raises StorageError, or ConflictError: another merge is under way.
        """
        return store.write(store.join(state, _RECORD), self._as_bytes(), create_only=True)

    def finish(self, state: str, version: str) -> Merge:
        """Lets the new files count, if the record is of that version still; returns the merge then.

        Raises StorageError, or ConflictError: another run has undone this merge meanwhile.
        """
        done = dataclasses.replace(self, done=True)
        location, record = store.join(state, _RECORD), done._as_bytes()
        try:
            store.write(location, record, if_match=version)
        except store.ConflictError:  # perhaps our own write, whose answer was lost
            if not store.exists(location) or store.read(location) != record:
                raise
        return done

    def _as_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self) | {"kept": sorted(self.kept)}).encode()


def read_merge(state: str, parts: str) -> Merge | None:
    """The merge that is under way in an output; None: there is none."""
    try:
        record: dict[str, Any] = json.loads(store.read(store.join(state, _RECORD)))
    except FileNotFoundError:
        return None
    merge = Merge(**(record | {"kept": frozenset(record["kept"])}))
    if not merge.beside:  # the folder is the record: it was exchanged, or it was not
        done = store.exists(store.join(parts, f"part-{merge.id}-00000.parquet"))
        merge = dataclasses.replace(merge, done=done)
    return merge


def forget(state: str) -> None:
    store.delete(store.join(state, _RECORD))
