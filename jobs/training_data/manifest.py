"""Lists as labelled images: a column of locations and a column of labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imagecensus.model_export.common.names import fold
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.training.splits import SPLIT_NAMES, SPLITS, DataError, Split
from imagecensus.transforms.inputs.column_types import as_type
from imagecensus.transforms.inputs.read_list import URI_COLUMNS, ListOfRows, read_rows, scan

# Locations of a list -> for each one its name (as the batch job writes it) and a function that
# reads it.
Image = tuple[str, Callable[[], bytes]]
_NAMED = 4  # examples in a note
Locate = Callable[[list[str]], list[Image]]


def read_manifest(
    location: str, label_column: str, path_column: str, split_column: str, locate: Locate
) -> tuple[list[str], dict[str, Split], list[str]]:
    """Labels, the splits that a list names, and notes of what was joined or left out.

    What cannot be read of a list, or has no label, is left out. Labels that differ in case, Unicode
    form or outer blanks only are one: the first of them.

    Args:
      location: a list of any kind that `classify` reads, here or in a store.
      label_column, path_column, split_column: the path column is found by name where empty, the
        split column may be missing.
      locate: finds the images.

    Raises:
      InputError, DataError: with the line or column that is wrong.
    """
    rows = scan(location)
    path_column = rows.column(path_column, "--path-column", URI_COLUMNS)
    label_column = rows.column(label_column, "--label-column")
    named = {name.casefold(): name for name in rows.schema.names}
    wanted = [path_column, label_column, named.get(split_column.casefold(), "")]
    (names, labels_of, splits, numbers), left_out = _columns(rows, wanted)
    spellings: dict[str, str] = {}
    said = set(labels_of)
    labels_of = [spellings.setdefault(fold(label), label.strip()) for label in labels_of]
    notes = [
        f"{location}: label {label!r} is taken as {spellings[fold(label)]!r}"
        for label in sorted(said)
        if label.strip() != spellings[fold(label)]
    ]
    if left_out:
        shown = "; ".join(left_out[:_NAMED]) + ("; …" if len(left_out) > _NAMED else "")
        notes.append(f"{location}: {counted(len(left_out), rows.unit)} left out: {shown}")
    labels = sorted(set(labels_of), key=_natural)
    class_ids = {label: class_id for class_id, label in enumerate(labels)}
    ids = np.asarray([class_ids[label] for label in labels_of], np.int32)
    images = locate(names)
    where = [f"{rows.unit} {number}" for number in numbers]
    once = _without_repeats(location, where, images, labels_of, splits)
    found = {}
    for name in SPLITS:
        chosen = once[splits[once] == name]
        if len(chosen) or name == "train":
            found[name] = _split([images[row] for row in chosen], ids[chosen])
    return labels, found, notes


class _Columns(NamedTuple):
    """Locations, labels and splits as they are written, and the number of each line or row."""

    names: list[str]
    labels: list[str]
    splits: NDArray[np.object_]
    numbers: list[int]


def _columns(rows: ListOfRows, wanted: list[str]) -> tuple[_Columns, list[str]]:
    """What the lines or rows that can be used say, and what is wrong with the others.

    Raises DataError: a split of another name, or none of them can be used.
    """
    schema = rows.schema
    # As they are written: label 007 is not 7.
    rows = rows.with_text(schema.get_field_index(name) for name in wanted if name)
    names: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    numbers: list[int] = []
    left_out: list[str] = []
    for batch in read_rows(rows):
        columns = [
            as_type(batch.values.column(name), pa.string()).to_pylist()
            if name
            else ["train"] * len(batch.numbers)
            for name in wanted
        ]
        for number, error, name, label, split in zip(
            batch.numbers, batch.errors, *columns, strict=True
        ):
            which = f"{rows.unit} {number}"
            if error:
                left_out.append(f"{which} {error}")
            elif not name or not label or not label.strip():
                left_out.append(f"{which} has no path or no label")
            elif fold(str(split)) not in SPLIT_NAMES:
                raise DataError(
                    f"{rows.location}: {which}: split {split!r} is none of train, val, test"
                )
            else:
                names.append(name)
                labels.append(label)
                splits.append(SPLIT_NAMES[fold(str(split))])
                numbers.append(number)
    if left_out and not names:
        raise DataError(f"{rows.location}: no {rows.unit} of it can be used: {left_out[0]}")
    return _Columns(names, labels, np.array(splits, object), numbers), left_out


def _without_repeats(
    path: str,
    where: list[str],
    images: Sequence[Image],
    labels: list[str],
    splits: NDArray[np.object_],
) -> NDArray[np.int64]:
    """Rows, each image once: one that is trained on and tested with would flatter the test."""
    first: dict[str, int] = {}
    for row, (name, _) in enumerate(images):
        other = first.setdefault(name, row)
        if (labels[other], splits[other]) != (labels[row], splits[row]):
            raise DataError(
                f"{path}: {where[other]} and {where[row]} are one image, {name}, as"
                f" {labels[other]!r} ({splits[other]}) and {labels[row]!r} ({splits[row]}):"
                " keep one of them"
            )
    return np.asarray(list(first.values()), np.int64)


def _split(images: Sequence[Image], ids: NDArray[np.int32]) -> Split:
    reads = [read for _, read in images]
    names = tuple(name for name, _ in images)
    return Split(names=names, labels=ids, open=lambda: iter(reads))


def _natural(text: str) -> tuple[int, int, str]:
    # Numeric labels in the order of their numbers: class 10 comes after class 9.
    return (0, int(text), text) if text.isdecimal() else (1, 0, text)
