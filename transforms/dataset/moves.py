"""Whether an image that is new is one of the plan that only moved: its content says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xxhash

from imagecensus.transforms.dataset.compare import Move
from imagecensus.transforms.dataset.work_plan import Plan
from imagecensus.transforms.storage import store

_READERS = 8
_MD5 = re.compile(r"[0-9a-f]{32}")


def same_content(
    moves: list[Move], plan: Plan, hashes: Callable[[str], dict[str, str]]
) -> list[Move]:
    """Those of which the old file is not there any more, and the new one has its bytes.

    On disk the hash of the bytes is compared with the table's; of a store, versions that are MD5s.
    A store that does not say what an object holds (`gs://`) tells of no move.

    Args:
      moves: from `Comparison.likely_moves`.
      plan: in which they were found.
      hashes: unit name → XXH3-128 of its images, in hex, by uri.
    """
    known: dict[str, dict[str, str]] = {}
    asked: list[tuple[Move, str]] = []
    for move in moves:
        file = plan.files[move.file]
        name = file.units[int(file.unit_at(np.array([move.row]))[0])].name
        if name not in known:
            known[name] = hashes(name)
        asked.append((move, known[name].get(move.old, "")))
    with ThreadPoolExecutor(_READERS) as pool:
        same = list(pool.map(lambda one: _is_same(*one), asked))
    return [move for move, is_same in zip(moves, same, strict=True) if is_same]


def _is_same(move: Move, known: str) -> bool:
    try:
        if not known or store.exists(move.old):
            return False
        if store.is_remote(move.new):
            return bool(_MD5.fullmatch(move.version.strip('"')))
        return _hash(move.new) == known
    except (OSError, store.StorageError):
        return False


def _hash(uri: str) -> str:
    digest = xxhash.xxh3_128()
    with open(store.path_of_uri(uri), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
