"""Symbolic links among inputs: no image has a second row or another name by one."""

import os
import socket

import pytest
from listings import listed, uris
from samples import make_photos

from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import (
    list_images,
)


def list_rows(inputs, selection=None) -> list[str]:
    batches = list_images(tuple(map(str, inputs)), selection=selection)
    return [uri for batch in batches for uri in batch.column("uri").to_pylist()]


def test_links_loops_and_special_files(tmp_path):
    make_photos(tmp_path / "real", 2)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "real" / "00000.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
        rows = listed(tmp_path)
    found = {os.path.relpath(row["uri"], tmp_path): row["size"] for row in rows}
    photos = {k: v for k, v in found.items() if v > 0}
    # What lies in `real` is listed once, by its own name and not by that of a link.
    assert set(photos) == {"real/00000.jpg", "real/00001.jpg"}
    assert {k for k, v in found.items() if v == -1} == {"broken.jpg", "self.jpg"}


@pytest.mark.parametrize("order", ["folder first", "link first"])
def test_a_link_neither_doubles_nor_renames_an_image(tmp_path, order):
    photos = make_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "a link.jpg").symlink_to("00001.jpg")
    (tmp_path / "album").symlink_to("photos")
    (tmp_path / "photos" / "Zurich").mkdir()
    (tmp_path / "photos" / "Zurich" / "all").symlink_to("../../album")
    expected = [str(path) for path in photos]
    inputs = [tmp_path / "photos", tmp_path / "album"]
    selection = Selection()
    rows = list_rows(inputs if order == "folder first" else inputs[::-1], selection)
    assert rows == expected and selection.left_out == {"links": 3}
    assert uris(tmp_path / "photos") == expected
    assert sorted(uris(tmp_path / "*" / "*.jpg")) == expected
    # Alone, a link is as good a name as any.
    assert uris(tmp_path / "album") == [str(tmp_path / "album" / f"0000{i}.jpg") for i in range(2)]
    one = [str(tmp_path / "album" / "00000.jpg"), photos[0]]
    assert list_rows(one) == list_rows(one[::-1]) == [photos[0]]


def link(path, target, age=0):
    """Makes a link, `age` hours old."""
    path.symlink_to(target)
    made = 1.7e9 - 3600 * age
    os.utime(path, (made, made), follow_symlinks=False)


def test_what_links_alone_lead_to_is_listed_once_by_the_oldest_of_them(tmp_path):
    make_photos(tmp_path / "away" / "year", 2)
    folder = tmp_path / "in"
    folder.mkdir()
    link(folder / "more", tmp_path / "away" / "year", age=3)

    def found(**options):
        return {os.path.relpath(uri, folder) for uri in list_rows([folder], **options)}

    assert found() == {"more/00000.jpg", "more/00001.jpg"}
    # Newer links rename nothing, whatever they lead to and are called.
    link(folder / "above", tmp_path / "away", age=2)
    link(folder / "a.jpg", tmp_path / "away" / "year" / "00000.jpg", age=1)
    selection = Selection()
    assert found(selection=selection) == {"more/00000.jpg", "more/00001.jpg"}
    assert selection.left_out == {"links": 1}
    # An older one does; so one that was made again does not.
    link(folder / "old.jpg", tmp_path / "away" / "year" / "00001.jpg", age=9)
    link(folder / "an old.jpg", tmp_path / "away" / "year" / "00001.jpg", age=8)
    assert found() == {"more/00000.jpg", "old.jpg"}


def test_a_link_to_a_file_beside_links_to_its_folder(tmp_path):
    (away, *_) = make_photos(tmp_path / "away" / "year", 1)
    folder = tmp_path / "in"
    (folder / "z").mkdir(parents=True)
    link(folder / "a.jpg", away, age=2)
    link(folder / "z" / "all", tmp_path / "away", age=1)
    assert uris(folder) == uris(folder, tmp_path / "in" / "z") == [str(folder / "a.jpg")]
    # What another input lists, as folder or glob, has its own name.
    for other in (tmp_path / "away", tmp_path / "away" / "*", tmp_path / "away" / "**" / "*.jpg"):
        assert uris(folder, other) == uris(other, folder) == [str(away)]
    assert uris(folder / "*") == uris(folder / "z" / ".." / "*.jpg") == [str(folder / "a.jpg")]


def test_links_to_folders_around_them_are_loops(tmp_path):
    (photo, *_) = make_photos(tmp_path / "in" / "photos", 1)
    make_photos(tmp_path / "beside", 1)
    make_photos(tmp_path / "away" / "year", 1)
    (tmp_path / "in" / "photos" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "year").symlink_to(tmp_path / "away" / "year")
    (tmp_path / "away" / "year" / "loop").symlink_to("..")
    found = [str(photo), str(tmp_path / "in" / "year" / "00000.jpg")]
    assert uris(tmp_path / "in") == found


def test_links_to_what_this_program_wrote_are_left_out(tmp_path):
    (photo, *_) = make_photos(tmp_path / "in", 1)
    (tmp_path / "census" / "_imagecensus").mkdir(parents=True)
    make_photos(tmp_path / "census", 1)
    (tmp_path / "in" / "census").symlink_to(tmp_path / "census")
    selection = Selection()
    assert list_rows([tmp_path / "in"], selection) == [str(photo)]
    assert selection.left_out == {"own": 1}


def test_files_that_are_called_by_their_content_have_one_row_by_the_oldest_link(tmp_path):
    folder = tmp_path / "in"
    (annexed, *_) = make_photos(folder / ".git" / "annex", 1)
    key = f"{os.path.dirname(annexed)}/MD5E-s5--{'0af' * 11}.jpg"
    os.rename(annexed, key)
    link(folder / "cat.jpg", key, age=1)
    link(folder / "same cat.jpg", key, age=2)
    link(folder / "a chain.jpg", folder / "same cat.jpg")
    selection = Selection()
    assert list_rows([folder], selection) == [str(folder / "same cat.jpg")]
    assert selection.left_out == {"hidden": 1, "links": 2}
    (folder / "same cat.jpg").unlink()  # what led through it is broken now
    assert uris(folder) == [str(folder / "cat.jpg"), str(folder / "a chain.jpg")]


def test_revisions_of_a_cache_of_blobs_have_one_row_for_each_blob(tmp_path):
    for name in ("blob 1", "blob 2"):
        make_photos(tmp_path / "blobs" / name, 1)
        os.rename(tmp_path / "blobs" / name / "00000.jpg", tmp_path / "blobs" / name[-1])
        (tmp_path / "blobs" / name).rmdir()
    for age, (revision, blobs) in enumerate({"new": "12", "old": "1"}.items()):
        (tmp_path / "snapshots" / revision).mkdir(parents=True)
        for blob in blobs:
            place = tmp_path / "snapshots" / revision / f"{blob}.jpg"
            link(place, f"../../blobs/{blob}", age=age)
    found = [str(tmp_path / "snapshots" / name) for name in ("old/1.jpg", "new/2.jpg")]
    assert uris(tmp_path / "snapshots") == found
    revisions = [tmp_path / "snapshots" / "new", tmp_path / "snapshots" / "old"]
    assert uris(*revisions) == uris(*revisions[::-1]) == found
    assert uris(tmp_path) == [str(tmp_path / "blobs" / name) for name in "12"]


def test_the_oldest_link_gives_the_name_wherever_it_is_found(tmp_path):
    (away, *_) = make_photos(tmp_path / "away", 1)
    make_photos(tmp_path / "beside", 1)
    for name in "ab":
        (tmp_path / name).mkdir()
    link(tmp_path / "b" / "more", tmp_path / "beside", age=3)
    link(tmp_path / "beside" / "old.jpg", away, age=2)
    found = [str(tmp_path / "b" / "more" / name) for name in ("00000.jpg", "old.jpg")]
    inputs = [tmp_path / "a", tmp_path / "b"]
    assert uris(*inputs) == found
    link(tmp_path / "a" / "new.jpg", away, age=1)
    link(tmp_path / "b" / "new.jpg", away, age=1)
    assert uris(*inputs) == uris(*inputs[::-1]) == found
    # What lies behind two links is as old as the newer one.
    link(tmp_path / "b" / "older.jpg", away, age=2.5)
    assert uris(*inputs) == [found[0], str(tmp_path / "b" / "older.jpg")]


def test_what_is_excluded_is_listed_by_the_name_of_a_link(tmp_path):
    folder = tmp_path / "in"
    selection = Selection(exclude=("album",))
    photos = make_photos(folder / "album", 1)
    (folder / "best.jpg").symlink_to(photos[0])
    assert str(folder / "best.jpg") in list_rows([folder], selection)
