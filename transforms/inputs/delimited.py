"""CSV and TSV, strictly: records by RFC 4180, with the dialect that the first line pins.

A line that breaks the rules costs itself: its record says so, and the next line is read afresh.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from imagecensus.transforms.inputs.text_lines import is_utf8

DELIMITERS = (",", ";", "\t", "|")
_CHUNK = 1024  # lines taken by the csv module at once, where each of them is a record
_MAX_LINES = 1000  # of one record: a quote that is never closed does not swallow the rest
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?$", re.IGNORECASE)  # as Excel writes it
_LONGEST_FIELD = 1 << 24
csv.field_size_limit(_LONGEST_FIELD)


class Record(NamedTuple):
    """One record: the line it begins at (from 1), its fields, and why it has none."""

    line: int
    fields: list[str]
    error: str = ""


class Header(NamedTuple):
    """What the first line says: the names as written, and the dialect.

    A blank behind the `delimiter`: one follows each, and is not of the field.
    """

    line: int
    names: list[str]
    delimiter: str

    @property
    def required(self) -> int:
        """Fields that a record must have: names at the end that are empty need none."""
        return max((i + 1 for i, name in enumerate(self.names) if name.strip()), default=0)


def read_header(lines: Iterator[tuple[int, str]], wanted: set[str]) -> Header | None:
    """The first line that is not blank, in the dialect that finds a wanted name, or most names.

    Args:
      lines: numbered; those up to the header are consumed.
      wanted: names of columns, as `plain_name` gives them.

    Returns:
      None: there is no line.
    """
    fixed = ""
    for number, line in lines:
        separator = _SEPARATOR_LINE.match(line)
        if separator and not fixed:
            fixed = separator[1]
        elif line.strip():
            found = [
                (delimiter, record)
                for delimiter in ((fixed,) if fixed else DELIMITERS)
                if (record := _parse(line.rstrip("\r\n"), delimiter)) is not None
            ] or [(fixed or ",", [line.strip()])]
            delimiter, names = max(
                found,
                key=lambda item: (
                    any(plain_name(name) in wanted for name in item[1]),
                    len(item[1]),
                ),
            )
            if len(names) > 1 and all(name.startswith(" ") for name in names[1:]):
                delimiter += " "
                names = _parse(line.rstrip("\r\n"), delimiter) or names
            return Header(number, names, delimiter)
    return None


def plain_name(name: str) -> str:
    """A column's name as it is compared: `Image Path` is `image_path`."""
    return re.sub(r"[\s.-]+", "_", name.strip().casefold())


def _reader(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    return csv.reader(
        lines, delimiter=delimiter[0], skipinitialspace=len(delimiter) > 1, strict=True
    )


def read_records(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[Record]:
    """The records of numbered lines; blank lines are none."""
    while chunk := list(itertools.islice(lines, _CHUNK)):
        rows = _each_a_record(chunk, delimiter)
        if rows is None:
            yield from _one_by_one(chunk, lines, delimiter)
            continue
        for (number, _), row in zip(chunk, rows, strict=True):
            if row:
                yield Record(number, row)


def _each_a_record(chunk: list[tuple[int, str]], delimiter: str) -> list[list[str]] | None:
    """The fields of lines that are a record each; None: they are not."""
    try:
        rows = list(_reader((line for _, line in chunk), delimiter))
    except csv.Error:
        return None
    # As many records as lines, and none of two lines: then each line is a record.
    if len(rows) != len(chunk) or not all(is_utf8(line) for _, line in chunk):
        return None
    return rows


def _one_by_one(
    chunk: list[tuple[int, str]], lines: Iterator[tuple[int, str]], delimiter: str
) -> Iterator[Record]:
    at = 0
    while at < len(chunk):
        number, line = chunk[at]
        if not is_utf8(line):
            yield Record(number, [], "is not UTF-8")
            at += 1
            continue
        used, fields, error = _record_at(chunk, at, lines, delimiter)
        if error:
            yield Record(number, [], error)
        elif fields:
            yield Record(number, fields)
        at += used


def _record_at(
    chunk: list[tuple[int, str]], at: int, lines: Iterator[tuple[int, str]], delimiter: str
) -> tuple[int, list[str], str]:
    """Lines used, fields, and an error, of the record that begins at a line of the chunk."""
    parts: list[str] = []
    for used in range(1, _MAX_LINES + 1):
        if at + used > len(chunk):
            following = next(lines, None)
            if following is None:
                break
            chunk.append(following)
        part = chunk[at + used - 1][1]
        parts.append(part)
        if used > 1 and '"' not in part:
            continue
        try:
            rows = list(_reader(["".join(parts)], delimiter))
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                continue
            if "field limit" in str(error):
                return 1, [], f"has a field of more than {_LONGEST_FIELD:,} characters"
            return 1, [], "has a quote that is neither doubled nor at the end of its field"
        return used, rows[0] if rows else [], ""
    return 1, [], "opens a quote that is never closed"


def _parse(line: str, delimiter: str) -> list[str] | None:
    try:
        return next(_reader([line], delimiter), None)
    except csv.Error:
        return None
