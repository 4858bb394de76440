"""The output of classification as one dataset: where its pieces are, and what may be added to it.

Rows of one model, one preprocessing and one set of options make one dataset; another is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.contract import Contract
from imagecensus.transforms.dataset import work_plan
from imagecensus.transforms.dataset.merging import PARTS, STATE
from imagecensus.transforms.image_ref import Limits
from imagecensus.transforms.inputs.column_types import is_guessed, together
from imagecensus.transforms.records import FACTS, GPS_FACTS, SHARE_FACT
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.lock import Lock

DATASET_VERSION = 1


class MixError(UserError):
    """The output holds a dataset of another identity. The message names what differs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the pieces of an output are.

    Shards work on one output side by side: each has a plan, a lock and a run report of
    its own.
    """

    output: str
    shard: tuple[int, int] = work_plan.WHOLE

    @functools.cached_property
    def parts(self) -> str:
        return store.join(self.output, PARTS)

    @functools.cached_property
    def state(self) -> str:
        return store.join(self.output, STATE)

    @functools.cached_property
    def dataset(self) -> str:
        return store.join(self.state, "dataset.json")

    @functools.cached_property
    def lock(self) -> str:
        return store.join(self.state, f"lock{self._suffix}")

    @functools.cached_property
    def epoch(self) -> str:
        """The number that each run raises."""
        return store.join(self.state, f"epoch{self._suffix}.json")

    @functools.cached_property
    def job(self) -> str:
        """What runs elsewhere for this output."""
        return store.join(self.state, f"job{self._suffix}.json")

    @functools.cached_property
    def signs(self) -> str:
        """Where workers elsewhere leave signs of life."""
        return store.join(self.state, f"working{self._suffix}.json")

    @functools.cached_property
    def listing(self) -> str:
        """How the locations of what workers have listed begin."""
        return store.join(self.state, f"listing{self._suffix}-")

    @functools.cached_property
    def whole(self) -> Layout:
        """The same output for a run over everything."""
        return dataclasses.replace(self, shard=work_plan.WHOLE)

    @functools.cached_property
    def run_report(self) -> str:
        return store.join(self.output, f"run_report{self._suffix}.json")

    @functools.cached_property
    def gone(self) -> str:
        """A list of the images that the last run's inputs do not have any more."""
        return store.join(self.output, f"gone{self._suffix}.csv")

    @functools.cached_property
    def _suffix(self) -> str:
        return ("-" + work_plan.shard_tag(self.shard)).rstrip("-")

    def make(self) -> None:
        """Makes the folders. Raises StorageError."""
        store.make_folders(self.output, self.parts, self.state)

    @contextlib.contextmanager
    def locked(self, on_lost: Callable[[], None] = lambda: None) -> Iterator[Lock]:
        """Holds the dataset, or this shard of it, for one run.

        `on_lost` is called when another run takes it over.
        A run over everything excludes the shards' runs, and they exclude it. Raises StorageError.
        """
        with contextlib.ExitStack() as locks:
            lock = locks.enter_context(Lock(self.lock, on_lost))
            if self.shard != work_plan.WHOLE:
                Lock(self.whole.lock).check()
            else:
                for name in store.list_names(self.state):
                    if name.startswith("lock-"):
                        Lock(store.join(self.state, name)).check()
            yield lock

    def remove_listings(self) -> None:
        """Removes what workers have listed; a run over everything that of shards, too."""
        start = "listing-" if self.shard == work_plan.WHOLE else self.listing.rpartition("/")[2]
        for name in store.list_names(self.state):
            if name.startswith(start):
                store.delete(store.join(self.state, name))

    def remove_temporary(self) -> None:
        """Removes what killed runs left half written. A shard leaves what may be another's."""
        if self.shard == work_plan.WHOLE:
            store.remove_temporary(self.output, self.parts, self.state)


_LIMITS = ("max_pixels", "max_side", "max_bytes")


def identity_of(
    contract: Contract,
    *,
    top_k: int,
    embeddings: bool,
    precision: str,
    limits: Limits,
    passthrough: pa.Schema,
    facts: tuple[str, ...] = (),
) -> dict[str, Any]:
    """All that decides what the rows say. Engines do not: they agree within a tolerance."""
    return {
        **({"facts": list(facts)} if facts else {}),
        "version": DATASET_VERSION,
        "model": contract.digest,
        "preprocess": contract.preprocess.to_json(),
        "top_k": top_k,
        "embeddings": embeddings,
        "precision": precision,
        **{name: getattr(limits, name) for name in _LIMITS},
        "columns": {field.name: str(field.type) for field in passthrough},
    }


def fingerprint_of(parts: dict[str, Any]) -> str:
    """sha256 of an identity, hex, 16 digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def stored_identity(layout: Layout) -> dict[str, Any]:
    """The identity of an output; empty where it has none yet, or `claim` will refuse it."""
    try:
        return identity_in(json.loads(store.read(layout.dataset)))
    except (OSError, ValueError, AttributeError, UserError):
        return {}


def identity_in(record: dict[str, Any]) -> dict[str, Any]:
    """The identity that `dataset.json` records; empty where it records none."""
    found = record.get("identity", record.get("ingredients"))  # the name until 0.1
    return found if isinstance(found, dict) else {}


def dataset_fingerprint(layout: Layout) -> str:
    """Raises UserError: the output holds no dataset."""
    try:
        return str(json.loads(store.read(layout.dataset))["fingerprint"])
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"{layout.output}: no output of classify is there; name its --output"
        ) from None


def fact_columns(present: dict[str, Any], *, gps: bool, share: bool) -> tuple[str, ...]:
    """The facts that a dataset keeps, given its stored identity (empty: it is new)."""
    old = bool(present) and "facts" not in present  # begun when there were none
    asked = (*(GPS_FACTS if gps else ()), *((SHARE_FACT,) if share else ()))
    return (*(() if old else FACTS), *asked)


def claim(
    layout: Layout, wanted: dict[str, Any], passthrough: pa.Schema, dry_run: bool = False
) -> tuple[str, pa.Schema]:
    """Makes the output a dataset of this identity, or checks that it is one.

    Lists may bring further columns: they are added to those that the dataset has. Limits may be
    raised.

    Returns:
      the fingerprint that the dataset was created with, and its columns.

    Raises:
      MixError: it is a dataset of another identity, or holds parts of unknown origin.
    """
    try:
        record = json.loads(store.read(layout.dataset))
        present, fingerprint = identity_in(record), record["fingerprint"]
        if not present:
            raise KeyError("identity")
    except FileNotFoundError:
        if store.list_names(layout.parts):
            raise MixError(
                f"{layout.output}: holds parts but no {layout.dataset}; choose another --output"
            ) from None
        record = {"fingerprint": fingerprint_of(wanted), "identity": wanted}
        if not dry_run:
            store.write(layout.dataset, json.dumps(record, indent=1).encode())
        return record["fingerprint"], _plain(passthrough)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MixError(f"{layout.dataset}: damaged ({error}); choose another --output") from None
    grown, schema = _grown(present.get("columns") or {}, passthrough)
    wanted = wanted | {"columns": grown}
    taken = {"columns", *(key for key in _LIMITS if _is_raised(present.get(key), wanted[key]))}
    differing = [key for key in wanted if key not in taken and present.get(key) != wanted[key]]
    if differing:
        what = "; ".join(
            f"{key}: {_short(present.get(key))} there, {_short(wanted[key])} now"
            for key in differing
        )
        raise MixError(
            f"{layout.output}: holds predictions made otherwise ({what}); datasets are never mixed:"
            " choose another --output, or run as before"
        )
    if any(present.get(key) != wanted[key] for key in taken) and not dry_run:
        record = {"fingerprint": fingerprint, "identity": wanted}
        store.write(layout.dataset, json.dumps(record, indent=1).encode())
    return fingerprint, schema


def _is_raised(there: Any, now: int) -> bool:
    """Whether a limit is higher: rows stay true, and `--retry-failed` takes what was too large."""
    return isinstance(there, int) and now > there


def _grown(columns: dict[str, str], passthrough: pa.Schema) -> tuple[dict[str, str], pa.Schema]:
    """The columns of a dataset with those that lists bring, as texts of types and as a schema.

    A column becomes text where a list disagrees with its type: `_revise` rewrites its parts.
    """
    fields = {name: pa.field(name, kind) for name in columns if (kind := _type_of(columns[name]))}
    for field in passthrough:
        there = columns.get(field.name, str(field.type))
        if str(field.type) == there:
            fields[field.name] = field
        elif field.name in fields:
            fields[field.name] = together(fields[field.name], field)
        elif not is_guessed(field):
            fields[field.name] = pa.field(field.name, pa.string())
    texts = {name: str(field.type) for name, field in fields.items()}
    return columns | texts, _plain(pa.schema(fields.values()))


def _plain(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.remove_metadata() for field in schema])


def _type_of(text: str) -> pa.DataType | None:
    """The type that `str` made the text of; None for others with parameters."""
    if text == "timestamp[us, tz=UTC]":
        return pa.timestamp("us", "UTC")
    try:
        return pa.type_for_alias(text)
    except ValueError:
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
