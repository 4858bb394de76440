"""Labelled images for training: which images, which label, which split.

`jobs.training_data` finds them; nothing is decoded here. Where a source has no split of its own,
one is cut from the training images: stratified by class, and the same for the same seed on every
machine.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.training.splits import SPLITS, DataError, Split, read_file

_NAMED = 4  # examples in a note


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledData:
    """The splits of one data set; `labels[i]` is the name of class id i.

    `notes` say what of the source was not used, and what was joined.
    """

    source: str
    labels: tuple[str, ...]
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        counts = ", ".join(f"{len(split)} {name}" for name, split in self.splits.items())
        return f"{counted(len(self.labels), 'class', 'classes')}; {counts}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitFractions:
    """Shares of the images cut for splits that the source does not have."""

    val: float = 0.1
    test: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.val < 1 and 0 <= self.test < 1 and self.val + self.test < 1):
            raise DataError(
                f"--val-fraction {self.val} and --test-fraction {self.test}: each must be within"
                " [0, 1) and leave something to train on"
            )


def subset(split: Split, rows: Sequence[int] | np.ndarray) -> Split:
    """The given rows of a split, in their original order."""
    keep = sorted(int(row) for row in rows)
    wanted = set(keep)

    def reopen() -> Iterator[Callable[[], bytes]]:
        return (read for row, read in enumerate(split.open()) if row in wanted)

    names = tuple(split.names[row] for row in keep)
    return dataclasses.replace(split, names=names, labels=split.labels[keep], open=reopen)


def stratified_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows cut for a split: `fraction` of each class, by a shuffle that depends on `seed` only.

    A class of two or more images gives at least one and keeps at least one.
    """
    cut = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = round(len(rows) * fraction)
        if fraction > 0:
            count = min(max(count, 1), len(rows) - 1)
        shuffled = np.random.default_rng([seed, int(label)]).permutation(rows)
        cut.append(shuffled[:count])
    return np.sort(np.concatenate(cut)) if cut else np.empty(0, np.int64)


def split_of_files(paths: Sequence[str], labels: Sequence[int]) -> Split:
    """A split whose images are local files."""
    paths = tuple(paths)
    return Split(
        names=paths,
        labels=np.asarray(labels, np.int32),
        open=lambda: (functools.partial(read_file, path) for path in paths),
    )


def complete(found: dict[str, Split], fractions: SplitFractions) -> dict[str, Split]:
    """Train, val and test; the missing ones are cut from the training images."""
    splits = dict(found)
    train = splits["train"]
    test_share = 0.0 if "test" in splits else fractions.test
    val_share = 0.0 if "val" in splits else fractions.val
    for name, share, seed in (
        ("test", test_share, 2 * fractions.seed),
        # of what is left, so that the share is of the whole
        ("val", val_share / (1 - test_share), 2 * fractions.seed + 1),
    ):
        if name in splits:
            continue
        rows = stratified_rows(train.labels, share, seed)
        splits[name] = subset(train, rows)
        train = subset(train, np.setdiff1d(np.arange(len(train)), rows))
    splits["train"] = train
    return {name: splits[name] for name in SPLITS}


def check(source: str, labels: Sequence[str], splits: dict[str, Split]) -> None:
    """Raises DataError with everything that keeps the data from being trained on."""
    problems = []
    if len(labels) < 2:
        found = f"has one class ({labels[0]!r})" if labels else "has no classes"
        problems.append(
            f"{found}: a classifier needs two or more; expected one folder per class, or a list"
            " with a label column"
        )
    trained = set(splits["train"].labels.tolist())
    for class_id, label in enumerate(labels):
        if class_id not in trained:
            where = [name for name in ("val", "test") if class_id in splits[name].labels]
            only = f", only images of {' and '.join(where)}" if where else ""
            problems.append(
                f"class {label!r} has no training image{only}; give it some, or take it out"
            )
    if problems:
        raise DataError(f"{source}: " + "; ".join(problems[:10]))


def unjudged(labels: Sequence[str], splits: dict[str, Split]) -> list[str]:
    """Notes of classes that have no image in a split, of which its figures say nothing."""
    notes = []
    for name in ("val", "test"):
        there = set(splits[name].labels.tolist())
        missing = [repr(label) for class_id, label in enumerate(labels) if class_id not in there]
        if there and missing:
            shown = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
            notes.append(
                f"{counted(len(missing), 'class', 'classes')} of {len(labels)} without a {name}"
                f" image ({shown}): the {name} figures say nothing of them"
            )
    return notes
