"""Whether an image that is new is one of the plan that only moved: its content says so."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import xxhash

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.reading import is_sequential
from imagecensus.transforms.dataset.compare import Move
from imagecensus.transforms.dataset.work_plan import Plan
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.decoders.look_into import read_reference
from imagecensus.transforms.image_ref import MAX_BYTES, ImageRef
from imagecensus.transforms.storage import store

_READERS = 8
_MD5 = re.compile(r"[0-9a-f]{32}(-\d+)?")  # or, of an object uploaded in parts, of their MD5s
_COMPARED = 3  # members of an archive


def same_content(
    moves: list[Move], plan: Plan, hashes: Callable[[str], dict[str, str]], gone: Container[str]
) -> list[Move]:
    """Those of which the old file is not there any more, and the new one has its bytes.

    On disk the hash of the bytes is compared with the table's, of an archive that of some members,
    whose places, sizes and time are the same. Of a store, its listing has said so: by checksums, or
    by versions that are MD5s; another one (Azure, the web) shows no move.

    Args:
      moves: from `Comparison.likely_moves`.
      plan: in which they were found.
      hashes: unit name → XXH3-128 of its images, in hex, by uri.
      gone: uris that are known to be not there any more.
    """
    if not moves:
        return []
    known: dict[str, dict[str, str]] = {}

    def known_hash(move: Move) -> str:
        file = plan.files[move.file]
        name = file.units[int(file.unit_at(np.array([move.row]))[0])].name
        if name not in known:
            known[name] = hashes(name)
        return known[name].get(move.old, "")

    groups: dict[tuple[str, str], list[Move]] = {}
    for move in moves:
        places = (move.old_container or move.old, move.container or move.new)
        groups.setdefault(places, []).append(move)
    asked = []
    for (old, new), some in groups.items():
        here = not store.is_remote(new)
        hashed = [(one, text) for one in some if here and (text := known_hash(one))]
        there = some[0].old not in gone and old
        asked.append((some[0], there, _compared(hashed)))
    with lease(), ThreadPoolExecutor(_READERS) as pool:
        same = pool.map(lambda one: _is_same(*one), asked)
        kept = [some for some, ok in zip(groups.values(), same, strict=True) if ok]
    return [move for some in kept for move in some]


def _compared(hashed: list[tuple[Move, str]]) -> list[tuple[Move, str]]:
    """Members of an archive whose bytes are compared: the first where it is read in order."""
    if len(hashed) <= 1 or is_sequential(hashed[0][0].member or ""):
        return hashed[:1]
    return [hashed[int(at)] for at in np.linspace(0, len(hashed) - 1, _COMPARED)]


def _is_same(move: Move, old: str | Literal[False], hashed: list[tuple[Move, str]]) -> bool:
    """Whether a file, or an archive, is the one that was.

    Args:
      move: the file, or one of the archive's members.
      old: what must not be there any more, or be a link to the file; False: that is known.
      hashed: what is read, and its hash in the table.
    """
    try:
        if old and store.exists(old) and not _is_link_to(old, move.container or move.new):
            return False
        if store.is_remote(move.new):
            return move.same_checksum or bool(_MD5.fullmatch(move.version.strip('"')))
        return bool(hashed) and all(_hash(one) == text for one, text in hashed)
    except (OSError, store.StorageError, ImageError):
        return False


def _is_link_to(old: str, new: str) -> bool:
    """Whether a name that is not listed any more leads to the file that is."""
    if store.is_remote(old) or store.is_remote(new):
        return False
    return os.path.realpath(store.path_of_uri(old)) == os.path.realpath(store.path_of_uri(new))


def _hash(move: Move) -> str:
    digest = xxhash.xxh3_128()
    if move.member is not None:
        ref = ImageRef(
            uri=move.new, size=move.size, etag=move.version, container=move.container,
            member=move.member,
        )  # fmt: skip
        digest.update(read_reference(ref, MAX_BYTES))
        return digest.hexdigest()
    with open(store.path_of_uri(move.new), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
