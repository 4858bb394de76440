"""The output of classification as one dataset: where its pieces are, and what may be added to it.

Rows of one model, one preprocessing and one set of options make one dataset; another is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pyarrow as pa

from model_export.contract import Contract
from model_export.errors import UserError
from transforms import inflight, storage

DATASET_VERSION = 1


class MixError(UserError):
    """The output holds a dataset of other ingredients. The message names what differs."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the pieces of an output are."""

    output: str

    @property
    def parts(self) -> str:
        return storage.join(self.output, "predictions")

    @property
    def state(self) -> str:
        return storage.join(self.output, "_imagecensus")

    @property
    def dataset(self) -> str:
        return storage.join(self.state, "dataset.json")

    @property
    def lock(self) -> str:
        return storage.join(self.state, "lock")

    @property
    def inflight(self) -> str:
        return inflight.folder_for(self.state)

    @property
    def run_report(self) -> str:
        return storage.join(self.output, "run_report.json")

    def make(self) -> None:
        """Makes the folders. Raises StorageError."""
        for folder in (self.output, self.parts, self.state):
            storage.make_folder(folder)

    def remove_temporary(self) -> None:
        for folder in (self.output, self.parts, self.state):
            storage.remove_temporary(folder)


def ingredients(
    contract: Contract,
    *,
    top_k: int,
    embeddings: bool,
    precision: str,
    max_pixels: int,
    max_bytes: int,
    passthrough: pa.Schema,
) -> dict:
    """All that decides what the rows say. Engines do not: they agree within a tolerance."""
    return {
        "version": DATASET_VERSION,
        "model": contract.digest,
        "preprocess": contract.preprocess.to_json(),
        "top_k": top_k,
        "embeddings": embeddings,
        "precision": precision,
        "max_pixels": max_pixels,
        "max_bytes": max_bytes,
        "columns": {field.name: str(field.type) for field in passthrough},
    }


def fingerprint(parts: dict) -> str:
    """sha256 of the ingredients, hex, 16 digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def claim(layout: Layout, wanted: dict, dry_run: bool = False) -> None:
    """Makes the output a dataset of these ingredients, or checks that it is one.

    Raises:
      MixError: it is a dataset of others, or holds parts of unknown origin.
    """
    try:
        present = json.loads(storage.read(layout.dataset))["ingredients"]
    except FileNotFoundError:
        if storage.list_names(layout.parts):
            raise MixError(
                f"{layout.output}: holds parts but no {layout.dataset}; choose another --output"
            ) from None
        if not dry_run:
            record = {"fingerprint": fingerprint(wanted), "ingredients": wanted}
            storage.write(layout.dataset, json.dumps(record, indent=1).encode())
        return
    except (ValueError, KeyError, TypeError) as error:
        raise MixError(f"{layout.dataset}: damaged ({error}); choose another --output") from None
    differing = [key for key in wanted if present.get(key) != wanted[key]]
    if differing:
        told = "; ".join(
            f"{key}: {_short(present.get(key))} there, {_short(wanted[key])} now"
            for key in differing
        )
        raise MixError(
            f"{layout.output}: holds predictions made otherwise ({told}); datasets are never mixed:"
            " choose another --output, or run as before"
        )


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
