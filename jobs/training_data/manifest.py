"""Manifests as labelled images: a table with a column of paths and a column of labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imagecensus.model_export.training.splits import SPLIT_NAMES, SPLITS, DataError, Split

if TYPE_CHECKING:
    import pyarrow as pa

_PATH_COLUMNS = ("uri", "path", "file", "filename", "image", "image_path")

# Locations of a manifest, and the folder that relative ones start from -> for each one its name
# (as the batch job writes it) and a function that reads it.
Image = tuple[str, Callable[[], bytes]]
Locate = Callable[[list[str], str], list[Image]]


def read_manifest(
    path: str,
    label_column: str,
    path_column: str,
    split_column: str,
    locate: Locate,
    base: str,
) -> tuple[list[str], dict[str, Split]]:
    """Labels, and the splits that a manifest names.

    Args:
      path: a local .csv, .jsonl or .parquet file.
      label_column, path_column, split_column: the path column is found by name where empty, the
        split column may be missing.
      locate: finds the images.
      base: where relative locations start.

    Raises:
      DataError: with the row or column that is wrong.
    """
    table = _read_table(path, [label_column, path_column, split_column, *_PATH_COLUMNS])
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
    texts = [str(value) for value in values]
    labels = sorted(set(texts), key=_natural)
    class_ids = {label: class_id for class_id, label in enumerate(labels)}
    ids = np.asarray([class_ids[text] for text in texts], np.int32)
    splits = _splits(path, table, split_column)
    images = locate([str(name) for name in names], base)
    once = _without_repeats(path, images, texts, splits)
    found = {}
    for name in SPLITS:
        rows = once[splits[once] == name]
        if len(rows) or name == "train":
            found[name] = _split([images[row] for row in rows], ids[rows])
    return labels, found


def _without_repeats(
    path: str, images: Sequence[Image], labels: list[str], splits: NDArray[np.object_]
) -> NDArray[np.int64]:
    """Rows, each image once: one that is trained on and tested with would flatter the test."""
    first: dict[str, int] = {}
    for row, (name, _) in enumerate(images):
        other = first.setdefault(name, row)
        if (labels[other], splits[other]) != (labels[row], splits[row]):
            raise DataError(
                f"{path}: rows {other + 1} and {row + 1} are one image, {name}, as"
                f" {labels[other]!r} ({splits[other]}) and {labels[row]!r} ({splits[row]}):"
                " keep one of them"
            )
    return np.asarray(list(first.values()), np.int64)


def _split(images: Sequence[Image], ids: NDArray[np.int32]) -> Split:
    reads = [read for _, read in images]
    return Split(tuple(name for name, _ in images), ids, lambda: iter(reads))


def _splits(path: str, table: pa.Table, column: str) -> NDArray[np.object_]:
    """The split of each row: train where the table has no such column."""
    splits = np.full(table.num_rows, "train", object)
    if column in table.column_names:
        for row, value in enumerate(table[column].to_pylist()):
            splits[row] = SPLIT_NAMES.get(str(value).lower())
            if splits[row] is None:
                raise DataError(
                    f"{path}: row {row + 1}: split {value!r} is none of train, val, test"
                )
    return splits


def _natural(text: str) -> tuple[int, int, str]:
    # Numeric labels in the order of their numbers: class 10 comes after class 9.
    return (0, int(text), text) if text.isdecimal() else (1, 0, text)


def _read_table(path: str, texts: list[str]) -> pa.Table:
    """The table; the columns named in `texts` as they are written: label 007 is not 7."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    def read_csv(path: str) -> pa.Table:
        return pa.csv.read_csv(
            path,
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in texts if name}
            ),
        )

    readers: dict[str, Callable[[str], pa.Table]] = {
        ".csv": read_csv,
        ".jsonl": pa.json.read_json,
        ".ndjson": pa.json.read_json,
        ".parquet": pa.parquet.read_table,
    }
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in readers:
        raise DataError(f"{path}: a manifest ends in {', '.join(readers)}")
    try:
        return readers[suffix](path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
