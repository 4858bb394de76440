"""What is listed, and what is not: folders, links, odd names, globs, manifests."""

import collections
import errno
import json
import os
import socket
import tarfile
import tempfile
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import make_photos

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.inputs import files
from imagecensus.transforms.inputs.files import InputError
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import (
    check_inputs,
    list_images,
    passthrough_columns,
)
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.records import REF_COLUMNS
from imagecensus.transforms.storage.protocol import Stored
from imagecensus.transforms.storage.store import path_of_uri, uri_of_path


def listed(*inputs, uri_column="") -> list[dict]:
    rows = []
    for batch in list_images(tuple(str(i) for i in inputs), uri_column):
        rows += batch.to_pylist()
    return rows


def list_rows(inputs, selection=None) -> list[str]:
    batches = list_images(tuple(map(str, inputs)), selection=selection)
    return [uri for batch in batches for uri in batch.column("uri").to_pylist()]


def uris(*inputs, **options) -> list[str]:
    return [row["uri"] for row in listed(*inputs, **options)]


def test_a_folder_is_listed_at_any_depth_in_name_order(tmp_path):
    names = ["a.jpg", "b/a.jpg", "b/c/deep.jpg", "b/z.jpg", "z.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    rows = listed(tmp_path)
    assert sorted(row["uri"] for row in rows) == sorted(str(tmp_path / name) for name in names)
    assert [r["uri"] for r in rows] == uris(tmp_path)  # the same order each time
    assert {row["size"] for row in rows} == {5}
    assert rows[0]["etag_or_mtime"] == str((tmp_path / "a.jpg").stat().st_mtime_ns)


def test_extensions_do_not_matter_but_hidden_files_and_litter_do(tmp_path):
    for name in ("photo", "photo.txt", "Thumbs.db", "desktop.ini", ".DS_Store", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert uris(tmp_path) == [str(tmp_path / "photo"), str(tmp_path / "photo.txt")]


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


def test_links_to_files_that_are_called_by_their_content_are_copies(tmp_path):
    folder = tmp_path / "in"
    (annexed, *_) = make_photos(folder / ".git" / "annex", 1)
    key = f"{os.path.dirname(annexed)}/MD5E-s5--{'0af' * 11}.jpg"
    os.rename(annexed, key)
    for name in ("cat.jpg", "same cat.jpg"):
        (folder / name).symlink_to(key)
    assert uris(folder) == [str(folder / "cat.jpg"), str(folder / "same cat.jpg")]


def test_what_is_excluded_is_listed_by_the_name_of_a_link(tmp_path):
    folder = tmp_path / "in"
    selection = Selection(exclude=("album",))
    photos = make_photos(folder / "album", 1)
    (folder / "best.jpg").symlink_to(photos[0])
    assert str(folder / "best.jpg") in list_rows([folder], selection)


@pytest.mark.parametrize("name", [b"new\nline.jpg", b"latin\xe9.jpg", b"#1 100%.jpg", "ß雪.jpg"])
def test_odd_names_keep_their_identity(tmp_path, name):
    name = os.fsencode(name)
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(b"x")
    (uri,) = uris(tmp_path)
    assert path_of_uri(uri) == path
    uri.encode("utf-8")  # fits into Arrow


def test_uris_of_paths_are_distinct():
    assert uri_of_path(b"/a/b\xff.jpg") == "file:///a/b%FF.jpg"
    assert path_of_uri("file:///a/b%FF.jpg") == b"/a/b\xff.jpg"
    assert uri_of_path(b"/a/b%FF.jpg") == "/a/b%FF.jpg"


def test_an_unreadable_folder_is_listed_itself(ordinary_user):
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        (readable,) = make_photos(f"{top}/open", 1)
        make_photos(f"{top}/locked", 1)
        os.chmod(f"{top}/locked", 0)
        found = ordinary_user(lambda: uris(top))
        os.chmod(f"{top}/locked", 0o755)
    assert sorted(found) == sorted([readable, f"{top}/locked"])


def test_globs_and_single_files(tmp_path):
    paths = make_photos(tmp_path / "a", 3) + make_photos(tmp_path / "b", 1, first=5)
    assert uris(tmp_path / "*" / "0000[01].jpg") == paths[:2]
    assert uris(f"{tmp_path}/**/*.jpg") == paths
    assert uris(tmp_path / "?") == paths  # folders that match are listed whole
    assert uris(paths[2], tmp_path / "b") == [paths[2], paths[3]]
    with pytest.raises(InputError, match="nothing matches"):
        uris(tmp_path / "*.png")


def test_a_missing_input_is_told_before_listing(tmp_path):
    assert check_inputs((str(tmp_path / "nowhere"),)) == [
        f"{tmp_path}/nowhere: no such file or folder"
    ]
    assert check_inputs((str(tmp_path), f"{tmp_path}/*.jpg", "gs://bucket/x")) == []


def test_text_manifest(tmp_path):
    paths = make_photos(tmp_path / "images", 2)
    manifest = tmp_path / "list.txt"
    manifest.write_text(f"images/00000.jpg\n\n{paths[1]}\r\ngone.jpg\ngs://bucket/x.jpg\n")
    rows = listed(manifest)
    assert [row["uri"] for row in rows] == [*paths, f"{tmp_path}/gone.jpg", "gs://bucket/x.jpg"]
    assert [row["size"] > 0 for row in rows] == [True, True, False, False]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_table_manifests_pass_their_other_columns_through(tmp_path, suffix):
    make_photos(tmp_path, 3)
    table = pa.table(
        {
            "path": [f"{i:05d}.jpg" for i in range(3)],
            "label": ["x,y", 'quo"te', "line\nbreak"],
            "taken": pa.array([2019, None, 2021], pa.int64()),
        }
    )
    manifest = tmp_path / f"list.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, manifest)
    elif suffix == "jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        import csv

        with open(manifest, "w", newline="") as file:
            writer = csv.writer(file, delimiter="," if suffix == "csv" else "\t")
            writer.writerow(table.column_names)
            writer.writerows(
                [v if v is not None else "" for v in r.values()] for r in table.to_pylist()
            )
    rows = listed(manifest)
    assert [row["uri"] for row in rows] == [f"{tmp_path}/{i:05d}.jpg" for i in range(3)]
    assert [row["manifest_label"] for row in rows] == ["x,y", 'quo"te', "line\nbreak"]
    assert [row["taken"] for row in rows] == [2019, None, 2021]
    assert passthrough_columns((str(manifest),)).names == ["manifest_label", "taken"]


def test_manifest_mistakes_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("photograph,n\nx.jpg,1\n")
    (tmp_path / "b.csv").write_text("uri,n\nx.jpg,one\n")
    (tmp_path / "c.jsonl").write_text('{"uri": "x.jpg"')
    (tmp_path / "d.csv").write_text("uri,n\n,1\n")
    with pytest.raises(InputError, match=r"a\.csv: no column of locations among photograph, n"):
        uris(tmp_path / "a.csv")
    assert uris(tmp_path / "a.csv", uri_column="photograph") == [f"{tmp_path}/x.jpg"]
    with pytest.raises(InputError, match="has no column 'url'"):
        uris(tmp_path / "a.csv", uri_column="url")
    with pytest.raises(InputError, match=r"c\.jsonl: cannot be read: line 1 is no JSON"):
        uris(tmp_path / "c.jsonl")
    (empty,) = listed(tmp_path / "d.csv")
    assert empty["uri"] == f"{tmp_path}/d.csv#line=2"
    assert json.loads(empty["member"]) == [
        "failed",
        "not_found",
        "line 2 of the list names no image",
    ]


def test_inputs_of_all_kinds_at_once_have_the_reference_columns(tmp_path):
    paths = make_photos(tmp_path / "folder", 1)
    (tmp_path / "list.csv").write_text(f"uri,camera\n{paths[0]},north\n")
    batches = list(list_images((str(tmp_path / "folder"), str(tmp_path / "list.csv"))))
    assert all(tuple(b.schema.names[: len(REF_COLUMNS)]) == REF_COLUMNS for b in batches)
    assert batches[1].schema.names[-1] == "camera"


def test_own_outputs_models_and_system_folders_are_never_listed(tmp_path):
    (photo,) = make_photos(tmp_path / "photos", 1)
    for name in (
        "photos/census/_imagecensus/dataset.json", "photos/census/predictions/part.parquet",
        "photos/model/assets.extra/contract.json", "photos/model.training/plots/curves.png",
        "photos/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "photos/$RECYCLE.BIN/$R.jpg",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert uris(tmp_path) == [photo]


def test_a_listing_that_breaks_off_keeps_what_it_found_and_says_so(tmp_path, monkeypatch):
    make_photos(tmp_path, 3)
    scandir = os.scandir

    class BreaksOff:
        def __init__(self, path):
            self._entries = scandir(path)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._entries.close()

        def __iter__(self):
            yield next(self._entries)
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "scandir", BreaksOff)
    found = uris(tmp_path)
    assert str(tmp_path) in found and len(found) == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_text_lists_with_a_byte_order_mark(tmp_path, encoding):
    paths = make_photos(tmp_path, 2)
    (tmp_path / "list.txt").write_bytes("00000.jpg\r\n00001.jpg\r\n".encode(encoding))
    assert uris(tmp_path / "list.txt") == paths


def test_a_text_list_with_nul_bytes_is_as_find_writes_it_or_refused(tmp_path):
    paths = make_photos(tmp_path, 2)
    (tmp_path / "list.txt").write_bytes(b"00000.jpg\x0000001.jpg\0")
    assert uris(tmp_path / "list.txt") == paths
    (tmp_path / "utf16.txt").write_bytes("00000.jpg\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="NUL bytes.*save it as UTF-8"):
        uris(tmp_path / "utf16.txt")


def test_columns_that_differ_from_ours_by_case_get_the_prefix(tmp_path):
    (tmp_path / "list.csv").write_text("path,Label,site\nx.jpg,dog,a\n")
    assert passthrough_columns((str(tmp_path / "list.csv"),)).names == ["manifest_Label", "site"]


def test_rows_above_a_wider_second_header_are_not_lost_in_silence(tmp_path):
    text = "path,site\n0.jpg,a\n1.jpg,b\npath,site,note\n2.jpg,c,x\n3.jpg,d,y\n"
    (tmp_path / "both.csv").write_text(text)
    with pytest.raises(InputError, match=r"both\.csv: line 4 is a second header"):
        uris(tmp_path / "both.csv")


def test_addresses_of_other_stores_stay_as_they_are(tmp_path):
    (photo,) = make_photos(tmp_path, 1)
    others = ["abfs://box@account/x.jpg", "hdfs://host/x.jpg"]
    (tmp_path / "list.csv").write_text("\n".join(["path", *others, f"file://localhost{photo}"]))
    assert uris(tmp_path / "list.csv") == [*others, photo]
    with pytest.raises(ImageError, match="hdfs:// is not read here"):
        read_image(ImageRef(uri=others[1]))


CARD = {
    "DCIM/IMG_1.JPG": True, "DCIM/IMG_1.MP4": "videos", "DCIM/IMG_1.xmp": "sidecars",
    "DCIM/IMG_1.JPG.pp3": "sidecars", "DCIM/IMG_1.AAE": "sidecars", "DCIM/IMG_1.CR3": True,
    "DCIM/IMG_1.jpg_original": True, "DCIM/IMG_1": True, "DCIM/IMG_1.THM": True,
    "DCIM/IMG_1.WAV": "sounds", "DCIM/IMG_10.txt": True, "DCIM/MVI_2.MP4": True,
    "DCIM/.nomedia": "hidden", "DCIM/Thumbs.db": "system", "README.md": True,
    "@eaDir/IMG_1.JPG/SYNOPHOTO_THUMB_M.jpg": "system", "out/_imagecensus/dataset.json": "own",
    "net/assets.extra/contract.json": "own", "net.training/plots/curves.png": "own",
    "user.training/1.jpg": True,
}  # fmt: skip


def write_files(folder, names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize("where", ["folder", "tar", "store"])
def test_what_is_left_out_is_counted_by_kind(tmp_path, where, monkeypatch):
    write_files(tmp_path / "card", CARD)
    names = sorted(name for name in CARD if where != "tar" or CARD[name] != "own")
    selection, source = Selection(), str(tmp_path / "card")
    if where == "tar":
        source += ".tar"
        with tarfile.open(source, "w") as tar:
            for name in names:
                tar.add(tmp_path / "card" / name, name)
    if where == "store":
        source = "gs://census/card"
        there = [Stored(f"{source}/{name}", 1, "1", 0.0) for name in names]
        monkeypatch.setattr(files.store, "exists", lambda uri: uri in [one.uri for one in there])
        monkeypatch.setattr(
            files.store, "store_of",
            lambda text: types.SimpleNamespace(list=lambda prefix: iter(there)),
        )  # fmt: skip
        found = [uri for uri, *_ in files.list_files(source, selection)]
    else:
        found = [
            uri
            for batch in list_images((source,), selection=selection)
            for uri in batch.column("uri").to_pylist()
        ]
    assert {uri[len(source) + 1 :] for uri in found} == {n for n in names if CARD[n] is True}
    wanted = collections.Counter(CARD[name] for name in names if CARD[name] is not True)
    assert +selection.left_out == wanted


def test_own_folders_are_known_in_whatever_order_a_store_lists(monkeypatch):
    """Ranges of names come in turns, a page of each."""
    names = [
        "a/_imagecensus/x.json", "b/_imagecensus/x.json", "a/predictions/1.png", "c/1.jpg",
        "b/predictions/1.png", "_imagecensus/x.json", "predictions/1.png", "report.html",
        "z/predictions/2.jpg",
    ]  # fmt: skip
    there = [Stored(f"gs://census/{name}", 1, "1", 0.0) for name in names]
    monkeypatch.setattr(
        files.store, "store_of", lambda text: types.SimpleNamespace(list=lambda prefix: iter(there))
    )
    selection = Selection()
    found = [uri for uri, *_ in files.list_files("gs://census/", selection)]
    assert found == ["gs://census/c/1.jpg", "gs://census/z/predictions/2.jpg"]
    assert selection.left_out == {"own": 3}


@pytest.mark.parametrize(
    ("exclude", "include", "kept"),
    [
        (["b"], [], ["a/1.jpg", "a/2.PNG", "c.jpg"]),
        (["a/*.jpg"], [], ["a/2.PNG", "a/b/3.jpg", "c.jpg"]),
        (["a/**/*.jpg"], [], ["a/2.PNG", "c.jpg"]),
        (["*.JPG"], [], ["a/2.PNG"]),
        (["/a"], [], ["c.jpg"]),
        ([], ["*.png"], ["a/2.PNG"]),
        ([], ["a"], ["a/1.jpg", "a/2.PNG", "a/b/3.jpg"]),
        (["b/"], ["a/**"], ["a/1.jpg", "a/2.PNG"]),
        (["[0-9].*"], [], ["c.jpg"]),
    ],
)
def test_patterns_choose_files_and_members_alike(tmp_path, exclude, include, kept):
    names = ["a/1.jpg", "a/2.PNG", "a/b/3.jpg", "c.jpg"]
    top = tmp_path / "top"
    write_files(top, names)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in names:
            tar.add(top / name, name)
    for source in (str(top), str(tmp_path / "x.tar"), f"{top}/**"):
        selection = Selection(exclude=tuple(exclude), include=tuple(include))
        batches = list_images((source,), selection=selection)
        found = {uri for batch in batches for uri in batch.column("uri").to_pylist()}
        wanted = f"{source}#" if source.endswith(".tar") else f"{top}/"
        assert found == {wanted + name for name in kept}
        assert source.endswith("**") or selection.left_out["excluded"] > 0
