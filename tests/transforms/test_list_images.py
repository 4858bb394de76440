"""What is listed, and what is not: folders, links, odd names, globs, manifests."""

import collections
import errno
import json
import os
import tarfile
import tempfile
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from listings import listed, uris
from samples import make_photos

from imagecensus.transforms.inputs import files
from imagecensus.transforms.inputs.check import check_inputs
from imagecensus.transforms.inputs.files import InputError
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import (
    list_images,
    passthrough_columns,
)
from imagecensus.transforms.records import REF_COLUMNS
from imagecensus.transforms.storage.protocol import Stored
from imagecensus.transforms.storage.store import path_of_uri, uri_of_path


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


def test_extensions_do_not_matter_but_hidden_and_system_files_do(tmp_path):
    for name in ("photo", "photo.txt", "Thumbs.db", "desktop.ini", ".DS_Store", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert uris(tmp_path) == [str(tmp_path / "photo"), str(tmp_path / "photo.txt")]


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


def test_a_missing_input_is_reported_before_listing(tmp_path):
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


def test_what_shards_write_into_a_folder_of_images_is_not_listed(tmp_path):
    for name in ("1.jpg", "run_report-s0of2.json", "gone-s1of2.csv", "_imagecensus/dataset.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [uri for uri, *_ in files.list_files(str(tmp_path))] == [str(tmp_path / "1.jpg")]


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
