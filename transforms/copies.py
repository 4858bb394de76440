"""Exact copies are inferred once: the last answers of a process, by the hash of an image's file."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

KEPT = 4096  # answers; with embeddings of 1280 numbers 21 MB
Answers = tuple[Any, Any, Any, list[str | None]]  # class ids, scores, embeddings, errors
_Row = tuple[Any, Any, Any]


class KnownAnswers:
    """Remembers answers. Images without a hash, and those that could not be answered, are not."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept, self._lock = kept, threading.Lock()
        self._rows: collections.OrderedDict[str, _Row] = collections.OrderedDict()

    def infer(
        self, infer: Callable[[np.ndarray], Answers], pixels: np.ndarray, hashes: Sequence[Any]
    ) -> tuple[Answers, int]:
        """The answers of all images, and how many of them were copies and not inferred.

        Args:
          infer: see `classify_batch.infer_bisecting`.
          pixels: uint8 [N, H, W, 3].
          hashes: N, each of a file's bytes, or None.
        """
        known = self._find(hashes)
        first = {h: row for row, h in reversed(list(enumerate(hashes))) if h is not None}
        fresh = [row for row, h in enumerate(hashes)
                 if h is None or (h not in known and first[h] == row)]  # fmt: skip
        answers: Answers = (None, None, None, [])
        if fresh:
            whole = len(fresh) == len(pixels)
            answers = infer(pixels if whole else pixels[fresh])
            self._keep([hashes[row] for row in fresh], answers)
            if whole:
                return answers, 0
        place = {row: at for at, row in enumerate(fresh)}
        rows: list[_Row | None] = []
        errors: list[str | None] = []
        for row, digest in enumerate(hashes):
            at = place.get(row if digest is None else first[digest], -1)
            errors.append(answers[3][at] if at >= 0 else None)
            if at < 0:
                rows.append(known[digest])
            else:
                rows.append(None if errors[-1] is not None else _row(answers, at))
        return (*_together(rows), errors), len(pixels) - len(fresh)

    def _find(self, hashes: Sequence[Any]) -> dict[str, _Row]:
        with self._lock:
            found = {h: self._rows[h] for h in hashes if h in self._rows}
            for digest in found:
                self._rows.move_to_end(digest)
        return found

    def _keep(self, hashes: Sequence[Any], answers: Answers) -> None:
        with self._lock:
            for at, digest in enumerate(hashes):
                if digest is not None and answers[3][at] is None:
                    self._rows[digest] = _row(answers, at)
            while len(self._rows) > self._kept:
                self._rows.popitem(last=False)


def _row(answers: Answers, at: int) -> _Row:
    """Of its own memory: a row of a batch would keep all of the batch."""
    return (answers[0][at].copy(), answers[1][at].copy(), answers[2][at].copy())


def _together(rows: list[_Row | None]) -> tuple[Any, Any, Any]:
    """Rows as arrays; zeros where there is none, None where there is not one."""
    like = next((row for row in rows if row is not None), None)
    if like is None:
        return None, None, None
    blank = tuple(np.zeros_like(part) for part in like)
    columns = zip(*(row or blank for row in rows), strict=True)
    ids, scores, embeddings = (np.stack(column) for column in columns)
    return ids, scores, embeddings
