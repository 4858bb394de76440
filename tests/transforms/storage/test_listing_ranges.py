"""Prefixes are listed in ranges of names or folders at once: each object once."""

from __future__ import annotations

import collections
import threading
import time

import obstore
import pytest

from imagecensus.transforms.storage import gcs_listing, object_listing

Blob = collections.namedtuple("Blob", "name")
PAGE = 10


class Bucket:
    """Answers as the service does, a page at a time; counts requests, and those at one time."""

    def __init__(self, names, knows_ranges=True, delay=0.0):
        self.names, self.knows, self.delay = sorted(set(names)), knows_ranges, delay
        self.requests, self.now, self.most = 0, 0, 0
        self.lock = threading.Lock()

    def _answer(self):
        """Takes its time, and counts requests and how many there were at once."""
        with self.lock:
            self.requests += 1
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.delay)
        with self.lock:
            self.now -= 1

    def list_pages(self, bucket, prefix, delimiter, *, start="", end="", size=PAGE):
        found, folders = [], set()
        for name in self.names:
            inside = not self.knows or (name >= start and (not end or name < end))
            if name.startswith(prefix) and inside:
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                else:
                    found.append(Blob(name))
        for at in range(0, max(len(found), 1), size):
            self._answer()
            yield found[at : at + size], folders if at == 0 else set()


def listed(monkeypatch, bucket, prefix=""):
    monkeypatch.setattr(gcs_listing, "list_pages", bucket.list_pages)
    found = [blob.name for blob in gcs_listing.list_objects("b", prefix)]
    assert found == [blob.name for blob in gcs_listing.list_objects("b", prefix)], "the same order"
    return sorted(found)


NAMES = {
    "hashes": [f"photos/{number * 2654435761 % 2**32:08x}.jpg" for number in range(300)],
    "numbers": [f"photos/IMG_{number:06d}.jpg" for number in range(300)],
    "one long stem": [f"photos/{'x' * 60}{number:03d}" for number in range(100)],
    "a name that is a stem": ["photos/a", *[f"photos/a{number:03d}" for number in range(50)]],
    "letters": [f"photos/{letter}{n}" for letter in "éz漢\ud7ff\U0010ffff😀" for n in range(9)],
    "folders too": [f"photos/{n % 7}/{n}.jpg" for n in range(99)] + ["photos/0", "photos/9"] * 2,
    "folders and many files": [f"photos/{n % 7}/{n}" for n in range(99)]
    + [f"photos/{n}" for n in range(99)],
    "years": [f"photos/{2015 + n % 12}/{n // 12:03d}.jpg" for n in range(300)],
    "like folders": [f"photos/{n % 9}{mark}{n}" for n in range(99) for mark in "-/."]
    + [f"photos/{n}" for n in range(0, 99, 7)],
    "blanks": [f"photos/{' ' * (n % 3)}{n}.jpg" for n in range(99)],
    "few": ["photos/1", "photos/2"],
    "none": [],
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("knows", [True, False])
def test_each_object_once(monkeypatch, kind, knows):
    others = ["photo", "photos0", "other/1"]
    bucket = Bucket([*NAMES[kind], *others], knows)
    assert listed(monkeypatch, bucket, "photos/") == sorted(set(NAMES[kind]))
    assert listed(monkeypatch, bucket, "") == bucket.names


def test_a_flat_prefix_is_listed_by_many_at_once(monkeypatch):
    bucket = Bucket(NAMES["hashes"], delay=0.02)
    assert len(listed(monkeypatch, bucket, "photos/")) == 300
    assert bucket.most > 6
    assert bucket.requests < 2 * (
        30 + 20 + 30
    )  # pages, letters, and a part of a page for each range


def test_an_error_ends_the_listing(monkeypatch):
    bucket = Bucket(NAMES["hashes"])
    real = bucket.list_pages

    def failing(*arguments, start="", **options):
        if start.startswith("photos/8") and options.get("size", PAGE) == PAGE:
            raise OSError("no network")
        return real(*arguments, start=start, **options)

    bucket.list_pages = failing
    with pytest.raises(OSError, match="no network"):
        listed(monkeypatch, bucket, "photos/")


class Objects(Bucket):
    """Answers as obstore does, of S3 or of Azure."""

    def order(self, name):
        return name

    def list(self, client, folder=None, *, offset=None, chunk_size):
        assert "//" not in (offset or ""), "no name that the library can express"
        if any(letter < " " for letter in offset or ""):
            raise ValueError("nor this one")
        return self.pages(folder, offset)

    def pages(self, folder, offset):
        names = [n for n in self.names if not folder or n.startswith(folder + "/")]
        if self.knows and offset:
            names = [n for n in names if self.order(n) > self.order(offset)]
        for at in range(0, max(len(names), 1), PAGE):
            self._answer()
            yield [{"path": name} for name in names[at : at + PAGE]]

    def list_with_delimiter(self, client, folder=None):
        start = f"{folder}/" if folder else ""
        inside = [name[len(start) :] for name in self.names if name.startswith(start)]
        return {
            "objects": [{"path": start + name} for name in inside if "/" not in name],
            "common_prefixes": sorted(
                {start + name.partition("/")[0] for name in inside if "/" in name}
            ),
        }

    def listed(self, monkeypatch, root, prefix=""):
        monkeypatch.setattr(obstore, "list", self.list)
        monkeypatch.setattr(obstore, "list_with_delimiter", self.list_with_delimiter)
        found = [item["path"] for item in object_listing.list_objects(None, root, prefix)]
        again = [item["path"] for item in object_listing.list_objects(None, root, prefix)]
        assert found == again, "the same order"
        return sorted(found)


class Folders(Objects):
    """An account of Azure with folders: a folder's objects come before what only begins alike."""

    def __init__(self, names, *arguments, **options):
        super().__init__(names, *arguments, **options)
        self.names.sort(key=self.order)

    def order(self, name):
        return name.split("/")


class StartsNowhere(Objects):
    """Answers with nothing where it is to begin at a name, as OneLake did."""

    def list(self, client, folder=None, *, offset=None, chunk_size):
        return iter(()) if offset else super().list(client, folder, chunk_size=chunk_size)


ROOTS = ("s3://b/", "s3://b--x-s3/", "az://b/")


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("knows", [True, False])
def test_each_object_of_other_stores_once(monkeypatch, kind, root, knows):
    others = ["photo", "photos0", "other/1"]
    bucket = Objects([*NAMES[kind], *others], knows)
    assert bucket.listed(monkeypatch, root, "photos/") == sorted(set(NAMES[kind]))
    assert bucket.listed(monkeypatch, root, "photos/a") == sorted(
        {name for name in NAMES[kind] if name.startswith("photos/a")}
    )
    assert bucket.listed(monkeypatch, root) == bucket.names


@pytest.mark.parametrize(
    ("root", "kind"),
    [
        *[("s3://b/", "hashes"), ("s3://b/", "years")],
        *[("az://b/", "years"), ("az://b/", "hashes"), ("az://b/", "numbers")],
    ],
)
def test_prefixes_of_other_stores_are_listed_by_many_at_once(monkeypatch, root, kind):
    bucket = Objects(NAMES[kind], delay=0.02)
    assert len(bucket.listed(monkeypatch, root, "photos/")) == 300
    assert bucket.most > 6


def test_objects_without_an_order_are_all_listed(monkeypatch):
    bucket = Objects(NAMES["hashes"], knows_ranges=False)
    bucket.names.reverse()
    assert bucket.listed(monkeypatch, "s3://b/", "photos/") == sorted(NAMES["hashes"])


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("account", [Folders, StartsNowhere])
def test_each_object_of_other_accounts_of_azure_once(monkeypatch, kind, account):
    bucket = account([*NAMES[kind], "photo", "photos0", "other/1"])
    for prefix in ("", "photos/", "photos/1", "photos/1-"):
        expected = sorted({name for name in bucket.names if name.startswith(prefix)})
        assert bucket.listed(monkeypatch, "az://b/", prefix) == expected


def test_an_object_that_goes_while_azure_is_listed_takes_none_along(monkeypatch):
    bucket = Objects(NAMES["hashes"])
    real = object_listing._named_ranges

    def lose_one(client, prefix, names):
        ranges = real(client, prefix, names)
        bucket.names.remove(ranges[3].after)  # where a range begins
        return ranges

    monkeypatch.setattr(object_listing, "_named_ranges", lose_one)
    monkeypatch.setattr(obstore, "list_with_delimiter", bucket.list_with_delimiter)
    monkeypatch.setattr(obstore, "list", bucket.list)
    found = [one["path"] for one in object_listing.list_objects(None, "az://b/", "photos/")]
    assert set(found) == set(NAMES["hashes"])
