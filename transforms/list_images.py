"""What is to be classified: inputs as people give them, listed as a stream of references.

Folders, files, globs and bucket prefixes are listed by `list_files`, manifests by `manifests`; in
the place of a packed archive its members are listed by `archives`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa

from transforms import archives, storage
from transforms.list_files import (
    CHUNK,
    InputError,
    absolute,
    is_glob,
    list_files,
    reference_batch,
)
from transforms.manifests import is_manifest, list_manifest, manifest_columns, passed_through

_PICTURES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")  # not looked into, for speed


def list_images(
    inputs: tuple[str, ...],
    uri_column: str = "",
    image_column: str = "",
    max_members: int = archives.MAX_MEMBERS,
) -> Iterator[pa.RecordBatch]:
    """Lists all inputs in turn.

    Args:
      inputs: folders, files, globs, archives, manifests, gs:// prefixes and globs.
      uri_column: the manifests' column of locations; empty: the first of `URI_COLUMNS`.
      image_column: the column or feature of pictures in Parquet and TFRecords; empty: the usual.
      max_members: of one archive; the archive itself is a failed row in place of the others.

    Yields:
      batches of at most `CHUNK` references: `REF_SCHEMA`, then a manifest's or table's columns.

    Raises:
      InputError: an input does not exist or a manifest cannot be read.
    """
    for text in inputs:
        if is_manifest(text) and not _holds_pictures(text, uri_column, image_column):
            yield from list_manifest(text, uri_column)
        else:
            yield from _list_with_archives(text, image_column, max_members)


def check_inputs(inputs: tuple[str, ...]) -> list[str]:
    """What is wrong with the inputs, as sentences, without listing them."""
    problems = []
    for text in inputs:
        if storage.is_bucket(text):
            continue
        path = os.path.abspath(text)
        if not os.path.lexists(path) and not is_glob(text):
            problems.append(f"{text}: no such file or folder")
    return problems


def passthrough_columns(
    inputs: tuple[str, ...], uri_column: str = "", image_column: str = ""
) -> pa.Schema:
    """The columns that manifests and tables among the inputs pass through to the output, together.

    Raises:
      InputError: two inputs give one column different types.
    """
    fields: dict[str, pa.Field] = {}
    for text in inputs:
        for field in _columns_of(text, uri_column, image_column):
            known = fields.setdefault(field.name, field)
            if known.type != field.type:
                raise InputError(
                    f"{text}: column {field.name!r} is {field.type}, in an earlier manifest"
                    f" {known.type}; rename one of them"
                )
    return pa.schema(list(fields.values()))


def _columns_of(text: str, uri_column: str, image_column: str) -> list[pa.Field]:
    if not is_manifest(text) or _holds_pictures(text, uri_column, image_column):
        return passed_through(_table_columns(text, image_column))
    return manifest_columns(text, uri_column)


def _holds_pictures(text: str, uri_column: str, image_column: str) -> bool:
    """Whether a Parquet file is an archive of pictures and no manifest of locations."""
    if not text.lower().endswith(".parquet") or (uri_column and not image_column):
        return False
    reference = next(list_files(text), ("", -1, ""))
    return archives.is_table_of_pictures(*reference, image_column)


def _list_with_archives(text: str, image_column: str, max_members: int) -> Iterator[pa.RecordBatch]:
    """The files of one input, and in the place of an archive its members."""
    named = text if storage.is_bucket(text) else storage.uri_of_path(absolute(text))
    columns = _table_columns(text, image_column)
    names = {f.name: new.name for f, new in zip(columns, passed_through(columns), strict=True)}
    chunk = []
    for reference in list_files(text):
        uri = reference[0]
        if not uri.endswith(_PICTURES) and (archives.is_archive_name(uri) or uri == named):
            kind = archives.archive_kind(*reference, image_column)
            if kind:
                if chunk:
                    yield reference_batch(chunk)
                    chunk = []
                members = archives.list_archive(
                    *reference, kind, image_column, columns, max_members
                )
                for batch in members:
                    yield batch.rename_columns([names.get(n, n) for n in batch.schema.names])
                continue
        chunk.append(reference)
        if len(chunk) == CHUNK:
            yield reference_batch(chunk)
            chunk = []
    if chunk:
        yield reference_batch(chunk)


def _table_columns(text: str, image_column: str) -> pa.Schema:
    """The columns of the first table of pictures, where an input's name says it is one."""
    for reference in list_files(text) if archives.has_columns(text) else ():
        if archives.is_archive_name(reference[0]):
            return archives.column_schema(*reference, image_column)
    return pa.schema([])
