"""Labelled images for training: class folders, a manifest, or a TensorFlow Datasets name.

Whatever the source, the answer is the same: which images, which label, which split. Nothing is
decoded here. Where the source has no split of its own, one is cut from the training images:
stratified by class, and the same for the same seed on every machine.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence

import numpy as np

from imagecensus.model_export.common.ignored_names import is_ignored, is_own
from imagecensus.model_export.training.splits import (
    SPLIT_NAMES,
    SPLITS,
    DataError,
    Split,
    read_file,
)


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """The splits of one data set; `labels[i]` is the name of class id i."""

    source: str
    labels: tuple[str, ...]
    splits: dict[str, Split]

    def summary(self) -> str:
        counts = ", ".join(f"{len(split)} {name}" for name, split in self.splits.items())
        return f"{len(self.labels)} classes; {counts}"


@dataclasses.dataclass(frozen=True)
class SplitFractions:
    """Shares of the images cut for splits that the source does not have."""

    val: float = 0.1
    test: float = 0.15
    seed: int = 0

    def __post_init__(self):
        if not (0 <= self.val < 1 and 0 <= self.test < 1 and self.val + self.test < 1):
            raise DataError(
                f"--val-fraction {self.val} and --test-fraction {self.test}: each must be within"
                " [0, 1) and leave something to train on"
            )


def read_labelled_data(
    source: str,
    fractions: SplitFractions,
    label_column: str = "label",
    path_column: str = "",
    split_column: str = "split",
    locate=None,
    base: str = "",
) -> LabelledData:
    """Finds the images, labels and splits of any supported source.

    Args:
      source: a folder of class folders (or of `train`, `val`, `test` with class folders), a
        manifest (.csv, .jsonl, .parquet), or `tfds:NAME`.
      fractions: of the splits cut where the source has none.
      label_column, path_column, split_column, locate, base: of a manifest; see
        `manifest.read_manifest`. Without `locate` its images are local files.

    Raises:
      DataError: with everything that keeps the data from being trained on.
    """
    if source.startswith("tfds:"):
        from imagecensus.model_export.training.tfds import read_tfds

        labels, found = read_tfds(source.removeprefix("tfds:"))
    elif os.path.isdir(source):
        labels, found = _read_class_folders(source)
    elif os.path.isfile(source):
        from imagecensus.model_export.training.manifest import locate_files, read_manifest

        columns = (label_column, path_column, split_column)
        labels, found = read_manifest(source, *columns, locate or locate_files, base)
    else:
        raise DataError(f"{source}: no such folder or manifest")
    splits = _complete(found, fractions)
    _check(source, labels, splits)
    return LabelledData(source, tuple(labels), splits)


def subset(split: Split, rows: Sequence[int]) -> Split:
    """The given rows of a split, in their original order."""
    keep = sorted(int(row) for row in rows)
    wanted = set(keep)

    def reopen():
        return (read for row, read in enumerate(split.open()) if row in wanted)

    return Split(tuple(split.names[row] for row in keep), split.labels[keep], reopen)


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
        paths,
        np.asarray(labels, np.int32),
        lambda: (functools.partial(read_file, path) for path in paths),
    )


def _complete(found: dict[str, Split], fractions: SplitFractions) -> dict[str, Split]:
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


def _check(source: str, labels: Sequence[str], splits: dict[str, Split]) -> None:
    problems = []
    if len(labels) < 2:
        named = f" ({labels[0]!r})" if labels else ""
        problems.append(
            f"{len(labels)} class{named}: a classifier needs two or more; expected one folder"
            " per class, or a manifest with a label column"
        )
    trained = set(splits["train"].labels.tolist())
    for class_id, label in enumerate(labels):
        if class_id not in trained:
            problems.append(f"class {label!r} has no training image")
    for name in ("val", "test"):
        if len(splits[name]) and not set(splits[name].labels.tolist()) <= trained:
            problems.append(f"the {name} split has classes that are never trained")
    if problems:
        raise DataError(f"{source}: " + "; ".join(problems[:10]))


def _read_class_folders(folder: str):
    folder = os.path.abspath(folder)
    top = _folders(folder)
    named = {SPLIT_NAMES.get(name.lower()): os.path.join(folder, name) for name in top}
    if "train" not in named:
        named = {"train": folder}
    named.pop(None, None)
    labels = sorted({label for path in named.values() for label in _folders(path)})
    class_ids = {label: class_id for class_id, label in enumerate(labels)}
    found, problems = {}, []
    for split, path in named.items():
        paths, ids = [], []
        for label in _folders(path):
            files = _files(os.path.join(path, label))
            if not files:
                problems.append(f"{os.path.join(path, label)}: empty class folder")
            paths += files
            ids += [class_ids[label]] * len(files)
        found[split] = split_of_files(paths, ids)
    if problems:
        raise DataError("; ".join(problems[:10]) + "; remove it or fill it")
    return labels, found


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not is_ignored(entry.name)]
    return sorted(name for name in names if not is_own(os.path.join(path, name)))


def _files(folder: str) -> list[str]:
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not is_ignored(name) and not is_own(os.path.join(root, name))
        )
        found += [os.path.join(root, name) for name in sorted(names) if not is_ignored(name)]
    return found
