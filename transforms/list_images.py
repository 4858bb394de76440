"""What is to be classified: inputs as people give them, listed as a stream of references.

Folders, files, globs and bucket prefixes are listed by `list_files`, manifests by `manifests`; in
the place of a packed archive its members are listed by `archives`.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from imagecensus.model_export.common.redact import redact
from imagecensus.transforms.archives import listing, page_archive
from imagecensus.transforms.archives.members import PAGES, is_archive_name
from imagecensus.transforms.decoders import look_into
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.inputs.check import is_glob
from imagecensus.transforms.inputs.column_types import as_type, together
from imagecensus.transforms.inputs.files import (
    CHUNK,
    File,
    absolute,
    checksum_column,
    is_object,
    list_files,
    listed_by,
    path_in_input,
    reference_batch,
)
from imagecensus.transforms.inputs.iiif import COLUMNS, is_iiif, list_iiif
from imagecensus.transforms.inputs.inventories import is_inventory, list_inventory
from imagecensus.transforms.inputs.links import Listed
from imagecensus.transforms.inputs.manifests import (
    list_manifest,
    manifest_columns,
    manifest_kind,
    named_kind,
    passed_through,
)
from imagecensus.transforms.inputs.object_ranges import OPENED, files_of
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.records import CHECKSUM_COLUMN, SOURCE_COLUMN
from imagecensus.transforms.storage import store

_IMAGES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")  # not looked into, for speed
_LISTED_AT_ONCE = 8
IIIF, INVENTORY = "iiif", "inventory"  # kinds of lists, beside those of `manifest_kind`


def list_images(
    inputs: tuple[str, ...],
    uri_column: str = "",
    image_column: str = "",
    max_members: int = listing.MAX_MEMBERS,
    columns: pa.Schema | None = None,
    *,
    selection: Selection | None = None,
    all_pages: bool = False,
    zip_encoding: str = "",
    with_sources: bool = False,
    by_workers: Callable[[str], Iterator[pa.RecordBatch] | None] = lambda text: None,
) -> Generator[pa.RecordBatch, None, None]:
    """Lists all inputs in turn, then what links in them lead to.

    Args:
      inputs: folders, files, globs, archives, manifests, prefixes and globs in stores.
      uri_column: the manifests' column of locations; empty: the first of `URI_COLUMNS`.
      image_column: the column or feature of images in Parquet and TFRecords; empty: the usual.
      max_members: of one archive; the archive itself is a failed row in place of the others.
      columns: from `passthrough_columns`; None: each list's columns have its own types.
      selection: of the files of folders, stores and archives; it counts what is left out.
      all_pages: files with several pages or frames are listed as so many images.
      zip_encoding: of names in zips that do not say theirs; empty: UTF-8, else code page 437.
      with_sources: the batches have `SOURCE_COLUMN`, the input that they come from.
      by_workers: the objects of an input, where workers have listed them, see `read_groups`.

    Yields:
      batches of at most `CHUNK` references: `REF_SCHEMA`, then a manifest's or table's columns,
      then `CHECKSUM_COLUMN` where the store gives checksums, then `SOURCE_COLUMN`.

    Raises:
      InputError: an input does not exist or a manifest cannot be read.
    """
    config = _Archives(
        image_column=image_column, max_members=max_members, zip_encoding=zip_encoding,
        all_pages=all_pages,
        selection=selection if selection is not None else Selection(), listed=listed_by(inputs),
    )  # fmt: skip
    with lease():  # one for all archives, whose listings begin with three questions each
        for text, batches in _list_each(inputs, uri_column, columns, config, by_workers):
            source = pa.scalar(redact(source_of(text)))
            for batch in batches:
                if with_sources:
                    batch = batch.append_column(SOURCE_COLUMN, pa.repeat(source, batch.num_rows))
                yield batch


def may_be_opened(uri: str, all_pages: bool) -> bool:
    """Whether a file of a folder is looked into when it is listed: an archive, or with pages."""
    return (all_pages and page_archive.may_have_pages(uri)) or (
        not uri.endswith(_IMAGES) and is_archive_name(uri)
    )


def is_prefix(text: str, uri_column: str = "", image_column: str = "") -> bool:
    """Whether an input is a prefix or glob of objects, and no list, archive, table or object."""
    if not store.is_bucket(text) or _manifest_kind(text, uri_column, image_column):
        return False
    named = is_archive_name(text) or listing.has_columns(text)
    return not named and (is_glob(text) or text.endswith("/") or not is_object(text))


def _list_each(
    inputs: tuple[str, ...], uri_column: str, columns: pa.Schema | None, config: _Archives,
    by_workers: Callable[[str], Iterator[pa.RecordBatch] | None],
) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:  # fmt: skip
    """Each input with its batches, to be read before the next one."""
    for text in inputs:
        kind = _manifest_kind(text, uri_column, config.image_column)
        if kind == IIIF:
            yield text, list_iiif(text)
        elif kind == INVENTORY:
            objects = list_inventory(text, config.selection)
            yield text, _list_with_archives(text, config, objects, from_bucket=True)
        elif kind:
            image_column = config.image_column
            yield (
                text,
                list_manifest(
                    text, uri_column, columns=columns, kind=kind, image_column=image_column
                ),
            )
        elif (batches := by_workers(text)) is not None:
            yield text, _with_members(text, config, batches)
        else:
            files = list_files(text, config.selection, config.listed)
            yield text, _list_with_archives(text, config, files)
    linked = config.listed.follow_links()
    while chunk := list(itertools.islice(linked, CHUNK)):
        for text in dict.fromkeys(text for text, _ in chunk):
            files = iter([file for where, file in chunk if where == text])
            yield text, _list_with_archives(text, config, files)


def source_of(text: str) -> str:
    """An input as the plan remembers it."""
    return text if store.is_remote(text) else store.uri_of_path(absolute(text))


def passthrough_columns(
    inputs: tuple[str, ...], uri_column: str = "", image_column: str = ""
) -> pa.Schema:
    """The columns that manifests and tables among the inputs pass through to the output, together.

    A column to which two inputs give different types is text.
    """
    fields: dict[str, pa.Field] = {}
    with lease():
        for text in inputs:
            for field in _columns_of(text, uri_column, image_column):
                known = fields.setdefault(field.name, field)
                fields[field.name] = together(known, field)
    return pa.schema(list(fields.values()))


def _columns_of(text: str, uri_column: str, image_column: str) -> list[pa.Field]:
    kind = _manifest_kind(text, uri_column, image_column)
    if kind == IIIF:
        return passed_through(pa.schema(COLUMNS))
    if kind == INVENTORY:
        return []
    if kind:
        return manifest_columns(text, uri_column, kind)
    return passed_through(_table_columns(text, image_column))


def _manifest_kind(text: str, uri_column: str, image_column: str) -> str:
    """What kind of list an input is; "": it holds images itself."""
    kind = manifest_kind(text)
    if kind and not uri_column and not image_column and is_inventory(text):
        return INVENTORY
    if is_iiif(text):
        return IIIF
    if kind == "parquet" and _holds_images(text, uri_column, image_column):
        return ""
    return kind or ("" if is_archive_name(text) else named_kind(text))


def _holds_images(text: str, uri_column: str, image_column: str) -> bool:
    """Whether a Parquet file is an archive of images and no manifest of locations."""
    if uri_column and not image_column:
        return False
    reference = next(list_files(text), ("", -1, ""))
    return look_into.is_table_of_images(*reference, image_column)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Archives:
    """How files and archives are listed: see `list_images`."""

    image_column: str
    max_members: int
    zip_encoding: str
    all_pages: bool
    selection: Selection
    listed: Listed


def _with_members(
    text: str, config: _Archives, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """What workers listed of an input, and in the place of an archive its members."""
    for batch in batches:
        opened = batch.column(OPENED)
        files, packed = (
            batch.filter(which).drop_columns([OPENED]) for which in (pc.invert(opened), opened)
        )
        yield files
        if packed.num_rows:
            yield from _list_with_archives(text, config, files_of(packed))


def _list_with_archives(
    text: str, config: _Archives, files: Iterator[File], *, from_bucket: bool = False
) -> Iterator[pa.RecordBatch]:
    """Files of one input, and in the place of an archive its members.

    `from_bucket`: an inventory names them, with paths from their bucket on.
    """
    named = source_of(text)
    columns = pa.schema([]) if from_bucket else _table_columns(text, config.image_column)
    passed = {f.name: new for f, new in zip(columns, passed_through(columns), strict=True)}

    def members_of(reference: File) -> Iterator[pa.RecordBatch] | None:
        uri = reference[0]
        if not (
            may_be_opened(uri, config.all_pages) or (uri == named and not uri.endswith(_IMAGES))
        ):
            return None
        kind = look_into.archive_kind(*reference, config.image_column)
        if kind == PAGES and not config.all_pages:
            return None
        if kind == "zip" and config.zip_encoding:
            kind += f":{config.zip_encoding}"
        if not kind:
            return None
        path = store.split(uri)[1] if from_bucket else path_in_input(text, uri)
        return look_into.list_archive(
            *reference,
            kind,
            config.image_column,
            columns=columns,
            max_members=config.max_members,
            all_pages=config.all_pages,
            chosen=(path, config.selection.exclude, config.selection.include),
        )

    chunk: list[File] = []
    remote = store.is_remote(text) or from_bucket
    for reference, members in _expand(files, remote, members_of, config.all_pages):
        if members is None:
            chunk.append(reference)
        if chunk and (members is not None or len(chunk) == CHUNK):
            yield _with_checksums(reference_batch(chunk), chunk)
            chunk = []
        for batch in members or ():
            config.selection.left_out.update(listing.left_out_of(batch))
            if batch.num_rows:
                renamed = _renamed(batch, passed)
                yield _with_checksums(renamed, [reference] * renamed.num_rows)
    if chunk:
        yield _with_checksums(reference_batch(chunk), chunk)


def _with_checksums(batch: pa.RecordBatch, references: list[File]) -> pa.RecordBatch:
    """The batch, and what stores say of the bytes of the files that its rows are, or lie in."""
    checksums = checksum_column(references)
    return batch if checksums is None else batch.append_column(CHECKSUM_COLUMN, checksums)


def _renamed(batch: pa.RecordBatch, passed: dict[str, pa.Field]) -> pa.RecordBatch:
    """Members with the columns of their table, under names and types that the output can have."""
    fields = [passed.get(field.name, field) for field in batch.schema]
    columns = [as_type(c, field.type) for c, field in zip(batch.columns, fields, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


_Listing = concurrent.futures.Future[list[pa.RecordBatch] | None] | None


def _expand(
    files: Iterator[File],
    remote: bool,
    members_of: Callable[[File], Iterator[pa.RecordBatch] | None],
    all_pages: bool,
) -> Iterator[tuple[File, Iterable[pa.RecordBatch] | None]]:
    """Each file of an input, and its members where it is an archive; in order.

    Archives in a bucket are listed some at a time, as each listing waits for many requests.
    """
    if not remote:
        for reference in files:
            yield reference, members_of(reference)
        return

    def list_packed(reference: File) -> list[pa.RecordBatch] | None:
        members = members_of(reference)
        return None if members is None else list(members)

    with (
        lease() as usual,
        lease(usual.limits, _LISTED_AT_ONCE),  # they start where they are asked something
        concurrent.futures.ThreadPoolExecutor(_LISTED_AT_ONCE) as pool,
    ):
        ahead: collections.deque[tuple[File, _Listing]] = collections.deque()
        for reference in files:
            looked_into = all_pages or not reference[0].endswith(_IMAGES)
            ahead.append((reference, pool.submit(list_packed, reference) if looked_into else None))
            if len(ahead) > 2 * _LISTED_AT_ONCE:
                first, found = ahead.popleft()
                yield first, found.result() if found else None
        for first, found in ahead:
            yield first, found.result() if found else None


def _table_columns(text: str, image_column: str) -> pa.Schema:
    """The columns of the first table of images, where an input's name says it is one."""
    for reference in list_files(text) if listing.has_columns(text) else ():
        if is_archive_name(reference[0]):
            return look_into.column_schema(*reference, image_column)
    return pa.schema([])
