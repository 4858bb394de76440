"""Members of packed archives by the uris that the table gives them: ARCHIVE#NAME."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from imagecensus.transforms.archives.members import MEMBER_PAGE, is_archive_name
from imagecensus.transforms.archives.page_archive import without_page
from imagecensus.transforms.decoders import look_into
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.inputs.locate import resolve
from imagecensus.transforms.records import REF_SCHEMA
from imagecensus.transforms.storage import store

_ARCHIVES = 8  # whose listings are kept
_NAMES = ("uri", "size", "etag_or_mtime", "container", "member")


class Packed(NamedTuple):
    """A text that names a member: of which archive, and the uri as the table has it."""

    container: str
    uri: str


def split_member(text: str, base: str) -> Packed | None:
    """What ARCHIVE#NAME names; None: it is a file of its own, or no such archive is there.

    Args:
      text, base: see `resolve`. In a store, only names that end like an archive's are believed.
    """
    if "#" not in text:
        return None
    for end in (index for index, letter in enumerate(text) if letter == "#" and index):
        container = resolve(text[:end], base)
        if store.is_address(container) and not container.startswith("file://"):
            there = is_archive_name(container) or text[end:].startswith("#page=")
        else:
            there = _is_file(container)
        if there and not _is_file(resolve(text, base)):
            return Packed(container, container + text[end:])
    return None


def _is_file(uri: str) -> bool:
    if store.is_address(uri) and not uri.startswith("file://"):
        return False
    try:
        return store.exists(uri)
    except (OSError, ValueError):
        return False


class Reference(NamedTuple):
    """The fields of `REF_SCHEMA`."""

    uri: str
    size: int
    etag_or_mtime: str
    container: str | None
    member: str | None

    @property
    def ref(self) -> ImageRef:
        return ImageRef.of(self._asdict())


class PackedMembers:
    """Finds members in archives, each of which is listed once while it is among the last few."""

    def __init__(self, image_column: str = "") -> None:
        self._image_column = image_column
        self._listed: collections.OrderedDict[str, pa.Table] = collections.OrderedDict()

    def find(self, container: str, uris: Iterable[str]) -> dict[str, Reference]:
        """The references of an archive's members, by uri; those that it does not have are left out.

        Raises OSError: the archive is not there or cannot be read.
        """
        wanted = list(uris)
        found = self._find(container, wanted)
        pages = {uri: without_page(uri) for uri in wanted if uri not in found}
        whole = self._find(container, [name for name, number in pages.values() if number])
        for uri, (name, number) in pages.items():
            if name in whole:
                where = [MEMBER_PAGE, number, *json.loads(whole[name].member or "[]")]
                found[uri] = whole[name]._replace(uri=uri, member=json.dumps(where))
        return found

    def _find(self, container: str, uris: list[str]) -> dict[str, Reference]:
        table = self._listing(container)
        wanted = pa.array(uris, pa.string())
        rows = pc.index_in(wanted, value_set=table.column("uri").combine_chunks()).drop_null()
        found = table.take(rows.unique())
        columns = [found.column(name).to_pylist() for name in _NAMES]
        return {row[0]: Reference(*row) for row in zip(*columns, strict=True)}

    def _listing(self, container: str) -> pa.Table:
        if container not in self._listed:
            there = store.stat(container)
            reference = (container, there.size, there.version)
            with lease():
                kind = look_into.archive_kind(*reference, self._image_column)
                batches = (
                    list(look_into.list_archive(*reference, kind, self._image_column))
                    if kind
                    else []
                )
            self._listed[container] = pa.Table.from_batches(
                [batch.select(list(_NAMES)) for batch in batches], REF_SCHEMA
            )
            if len(self._listed) > _ARCHIVES:
                self._listed.popitem(last=False)
        self._listed.move_to_end(container)
        return self._listed[container]
