"""What a decoder process answers about packed archives. The asking is in `look_into`."""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from imagecensus.transforms.archives import listing

_LISTINGS = 16  # begun, at most


class Lists:
    """The answers of one process, and the listings that it has begun."""

    def __init__(self) -> None:
        self._begun: collections.OrderedDict[int, tuple[int, Iterator[pa.RecordBatch]]] = (
            collections.OrderedDict()
        )

    def answer(self, call: str, arguments: list[Any]) -> bytes:
        if call == "list_archive":
            return self._next_batch(*arguments)
        found = getattr(listing, call)(*arguments)
        return packed(found) if isinstance(found, pa.Schema) else json.dumps(found).encode()

    def _next_batch(self, number: int, given: int, question: list[Any]) -> bytes:
        """The next batch of a listing; empty: there is none.

        Args:
          number: of the listing.
          given: batches that were had. Where another process gave them and died, they are skipped.
        """
        at, batches = self._begun.pop(number, (0, None))
        if batches is None or at != given:
            location, size, etag, kind, image_column, columns, max_members, all_pages, chosen = (
                question
            )
            schema = pa.ipc.open_stream(bytes.fromhex(columns)).schema
            batches = listing.list_archive(
                location, size, etag, kind,
                image_column=image_column, columns=schema, max_members=max_members,
                all_pages=all_pages, chosen=chosen,
            )  # fmt: skip
            batches = itertools.islice(batches, given, None)
        batch = next(batches, None)
        if batch is None:
            return b""
        self._begun[number] = (given + 1, batches)
        if len(self._begun) > _LISTINGS:
            self._begun.popitem(last=False)
        return packed(batch.schema, [batch])


def packed(schema: pa.Schema, batches: Iterable[pa.RecordBatch] = ()) -> bytes:
    """A schema, with record batches of it, as bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data
