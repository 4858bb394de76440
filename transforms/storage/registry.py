"""Which store a location is in. A new kind of store is a class that keeps `Store`, named here.

A store's module is imported when a location is in it: its client takes longer to import than most
processes that read files take to start.
"""

from __future__ import annotations

import functools
from typing import cast

from imagecensus.transforms.storage.local import LocalStore
from imagecensus.transforms.storage.locations import BUCKETS, GOOGLE, S3, UNORDERED, scheme_of
from imagecensus.transforms.storage.objects import ObjectStore
from imagecensus.transforms.storage.protocol import RangedStore, Store


def store_of(location: str) -> Store:
    """The store that a location is in."""
    return _store(scheme_of(location))


def lists_ranges(location: str) -> bool:
    """Whether it is in a store that lists ranges of names; S3's directory buckets have no order."""
    root = location.partition("://")[2].partition("/")[0]
    return location.startswith((*GOOGLE, *S3)) and not root.endswith(UNORDERED)


def ranged_store_of(location: str) -> RangedStore:
    """The store of a location that `lists_ranges`."""
    return cast(RangedStore, store_of(location))


@functools.cache
def _store(scheme: str) -> Store:
    if scheme == "gs":
        from imagecensus.transforms.storage.gcs import GoogleStore

        return GoogleStore()
    if scheme == "hf":
        from imagecensus.transforms.storage.web.hub import HubStore

        return HubStore()
    if f"{scheme}://" in BUCKETS:
        return ObjectStore()
    if scheme == "https":
        from imagecensus.transforms.storage.web.store import WebStore

        return WebStore()
    return LocalStore()
