"""Create-only and if-match writes, listings with versions: alike in every store."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from object_servers import SERVERS

from imagecensus.transforms.storage import store


@pytest.fixture(params=["disk", *SERVERS])
def folder(request, tmp_path, reach) -> str:
    if request.param == "disk":
        return str(tmp_path)
    return reach(request.param).uri(f"conditions/{tmp_path.name}")


def test_only_one_of_many_creates(folder):
    location = store.join(folder, "epoch.json")
    won, lost = [], []

    def create(number: int) -> None:
        try:
            won.append((number, store.write(location, b"%d" % number, create_only=True)))
        except store.ConflictError:
            lost.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert store.read_versioned(location) == (b"%d" % won[0][0], won[0][1])


def test_a_stale_version_overwrites_nothing(folder):
    location = store.join(folder, "counter")
    store.write(location, b"0")

    def add() -> None:
        for _ in range(5):
            while True:
                data, version = store.read_versioned(location)
                try:
                    store.write(location, b"%d" % (int(data) + 1), if_match=version)
                    break
                except store.ConflictError:
                    continue

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read(location) == b"20"


def test_what_is_gone_is_of_no_version(folder):
    location = store.join(folder, "gone")
    version = store.write(location, b"x")
    store.delete(location)
    with pytest.raises(store.ConflictError):
        store.write(location, b"y", if_match=version)
    assert not store.exists(location)


def test_a_listing_gives_size_and_the_version_that_is_read(folder):
    for name in ("b", "a"):
        store.write(store.join(folder, "parts", name) if "://" in folder else _made(folder, name),
                    name.encode() * 3)  # fmt: skip
    listed = list(store.list_folder(store.join(folder, "parts")))
    assert [os.path.basename(found.uri) for found in listed] == ["a", "b"]
    assert [found.size for found in listed] == [3, 3]
    assert store.read(listed[0].uri, listed[0].version) == b"aaa"
    store.write(listed[0].uri, b"new!")
    with pytest.raises(OSError):
        store.read(listed[0].uri, listed[0].version)


def _made(folder: str, name: str) -> str:
    os.makedirs(f"{folder}/parts", exist_ok=True)
    return f"{folder}/parts/{name}"


def test_a_disk_without_hard_links_creates_only_once_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    location = f"{tmp_path}/one"
    store.write(location, b"1", create_only=True)
    with pytest.raises(store.ConflictError):
        store.write(location, b"2", create_only=True)
    assert store.read(location) == b"1"
    assert os.listdir(tmp_path) == ["one"]
