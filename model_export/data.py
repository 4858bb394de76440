"""Labelled pictures for training: class folders, a manifest, or a TensorFlow Datasets name.

Whatever the source, the answer is the same: which pictures, which label, which split. Nothing is
decoded here. Where the source has no split of its own, one is cut from the training pictures:
stratified by class, and the same for the same seed on every machine.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from model_export.errors import UserError

SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_PATH_COLUMNS = ("uri", "path", "file", "filename", "image", "image_path")


class DataError(UserError):
    """The training data cannot be used. The message names the folder, file or class."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Pictures of one split, not yet read.

    Attributes:
      names: one per picture: its path, or its key in the dataset.
      labels: int32 [N], class ids.
      open: starts a pass over the pictures in order; each item returns the file's bytes when
        called (and raises OSError where it cannot), so that threads can do the reading.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    open: Callable[[], Iterable[Callable[[], bytes]]]

    def __len__(self) -> int:
        return len(self.names)


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
    """Shares of the pictures cut for splits that the source does not have."""

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
) -> LabelledData:
    """Finds the pictures, labels and splits of any supported source.

    Args:
      source: a folder of class folders (or of `train`, `val`, `test` with class folders), a
        manifest (.csv, .jsonl, .parquet), or `tfds:NAME`.
      fractions: of the splits cut where the source has none.
      label_column, path_column, split_column: of a manifest; the path column is found by name
        where empty, the split column may be missing.

    Raises:
      DataError: with everything that keeps the data from being trained on.
    """
    if source.startswith("tfds:"):
        from model_export.tfds_data import read_tfds

        labels, found = read_tfds(source.removeprefix("tfds:"))
    elif os.path.isdir(source):
        labels, found = _read_class_folders(source)
    elif os.path.isfile(source):
        labels, found = _read_manifest(source, label_column, path_column, split_column)
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

    A class of two or more pictures gives at least one and keeps at least one.
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
    """A split whose pictures are local files."""
    paths = tuple(paths)
    return Split(
        paths,
        np.asarray(labels, np.int32),
        lambda: (functools.partial(_read_file, path) for path in paths),
    )


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _complete(found: dict[str, Split], fractions: SplitFractions) -> dict[str, Split]:
    """Train, val and test; the missing ones are cut from the training pictures."""
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
            problems.append(f"class {label!r} has no training picture")
    for name in ("val", "test"):
        if len(splits[name]) and not set(splits[name].labels.tolist()) <= trained:
            problems.append(f"the {name} split has classes that are never trained")
    if problems:
        raise DataError(f"{source}: " + "; ".join(problems[:10]))


def _read_class_folders(folder: str):
    folder = os.path.abspath(folder)
    top = _folders(folder)
    named = {_SPLIT_NAMES.get(name.lower()): os.path.join(folder, name) for name in top}
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
    return sorted(e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith("."))


def _files(folder: str) -> list[str]:
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(root, name) for name in sorted(names) if not name.startswith(".")]
    return found


def _read_manifest(path: str, label_column: str, path_column: str, split_column: str):
    table = _read_table(path)
    if not path_column:
        present = [name for name in _PATH_COLUMNS if name in table.column_names]
        if not present:
            raise DataError(
                f"{path}: no column named {', '.join(_PATH_COLUMNS)}; its columns are"
                f" {', '.join(table.column_names)}; name the right one with --path-column"
            )
        path_column = present[0]
    for flag, column in (("--path-column", path_column), ("--label-column", label_column)):
        if column not in table.column_names:
            raise DataError(
                f"{path}: no column {column!r}; its columns are"
                f" {', '.join(table.column_names)}; name the right one with {flag}"
            )
    names = table[path_column].to_pylist()
    values = table[label_column].to_pylist()
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        if name in (None, "") or value in (None, ""):
            raise DataError(f"{path}: row {row + 1} has no path or no label; remove it or fill it")
    base = os.path.dirname(os.path.abspath(path))
    files = [os.path.join(base, str(name).removeprefix("file://")) for name in names]
    texts = [str(value) for value in values]
    labels = sorted(set(texts), key=_natural)
    class_ids = {label: class_id for class_id, label in enumerate(labels)}
    ids = np.asarray([class_ids[text] for text in texts], np.int32)
    split_names = np.full(len(files), "train", object)
    if split_column in table.column_names:
        for row, value in enumerate(table[split_column].to_pylist()):
            name = _SPLIT_NAMES.get(str(value).lower())
            if name is None:
                raise DataError(
                    f"{path}: row {row + 1}: split {value!r} is none of train, val, test"
                )
            split_names[row] = name
    found = {}
    for name in SPLITS:
        rows = np.flatnonzero(split_names == name)
        if len(rows) or name == "train":
            found[name] = split_of_files([files[row] for row in rows], ids[rows])
    return labels, found


def _natural(text: str):
    # Numeric labels in the order of their numbers: class 10 comes after class 9.
    return (0, int(text), text) if text.isdigit() else (1, 0, text)


def _read_table(path: str):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    readers = {
        ".csv": pa.csv.read_csv,
        ".jsonl": pa.json.read_json,
        ".ndjson": pa.json.read_json,
        ".parquet": pa.parquet.read_table,
    }
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in readers:
        raise DataError(f"{path}: a manifest ends in {', '.join(readers)}")
    try:
        return readers[suffix](path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
