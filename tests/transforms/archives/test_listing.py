"""Packed archives: what is listed of them, what is read, and what hostile ones can do."""

import gzip
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listings import FILES, STATUSES, contents, found_in, listed, packed, read
from packing import KINDS, NAMED, add_to_tar, pack
from pyarrow import feather, orc

from imagecensus.transforms.archives.reading import Place
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import list_images

quick = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_listed_in_order_and_read_back(tmp_path, kind):
    path = pack(kind, FILES, tmp_path / f"shard.{kind}")
    rows = listed(path)
    names = [n for n, _ in FILES] if kind in NAMED else [str(i) for i in range(len(FILES))]
    assert [row["uri"] for row in rows] == [f"{path}#{name}" for name in names]
    assert {row["container"] for row in rows} == {path}
    assert {row["etag_or_mtime"] for row in rows} == {str(os.stat(path).st_mtime_ns)}
    with Place() as place:
        assert [read(row, place=place) for row in rows] == [data for _, data in FILES]
    # In any order too, and by readers that begin anew each time.
    assert [read(row) for row in reversed(rows)] == [data for _, data in reversed(FILES)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_in_a_folder_or_glob_is_found_by_its_suffix(tmp_path, kind):
    path = pack(kind, FILES[:3], tmp_path / f"b.{kind}")
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "c.jpg").write_bytes(b"c")
    uris = [row["uri"] for row in listed(tmp_path)]
    assert uris[0] == str(tmp_path / "a.jpg") and uris[-1] == str(tmp_path / "c.jpg")
    assert len(uris) == 5 and all(uri.startswith(f"{path}#") for uri in uris[1:-1])
    assert len(listed(tmp_path / "*b*")) == 3
    # Another name hides it in a folder; naming the file itself shows it.
    os.rename(path, tmp_path / "b.bin")
    assert len(listed(tmp_path)) == 3
    assert len(listed(tmp_path / "b.bin")) == 3


def test_content_decides_what_a_file_named_like_an_archive_is(tmp_path):
    (tmp_path / "photo.zip").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "empty.tar").write_bytes(b"")
    pack("zip", FILES[:2], tmp_path / "really-a-zip.tar")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "numbers.parquet")
    rows = listed(tmp_path)
    assert [row["uri"].removeprefix(f"{tmp_path}/") for row in rows] == [
        "empty.tar",
        "numbers.parquet",
        "photo.zip",
        "really-a-zip.tar#class-0/000.jpg",
        "really-a-zip.tar#class-1/001.jpg",
    ]
    tarfile.open(tmp_path / "nothing.tar", "w").close()
    assert listed(tmp_path / "nothing.tar") == []


def test_sidecars_of_webdataset_shards_are_not_listed(tmp_path):
    names = [
        "0001.json", "0001.jpg", "0001.cls", "0002.jpg", "0002.seg.png", "0002.txt",
        "0003.json", "a/0001.txt", "README.md", "noext", ".hidden.jpg", "__MACOSX/._0001.jpg",
        ".git/x.jpg", "Thumbs.db",
    ]  # fmt: skip
    for kind in NAMED:
        path = pack(kind, [(name, name.encode()) for name in names], tmp_path / f"shard.{kind}")
        # A member without an image beside it is listed, as a folder would list it.
        assert list(contents(path)) == [
            "0001.jpg", "0002.jpg", "0002.seg.png", "0003.json", "a/0001.txt", "README.md", "noext",
        ]  # fmt: skip


@pytest.mark.parametrize("kind", NAMED)
def test_hostile_names_are_labels_only(tmp_path, kind):
    names = ["/etc/passwd", "../up.jpg", "a/../../b.jpg", "x.jpg", "x.jpg", "./y.jpg", "x.jpg~2"]
    names += ["new\nline.jpg", "inner.zip", "c:\\d.jpg", "é.jpg", "#.jpg", "<b>.jpg"]
    folder = tmp_path / "in"
    folder.mkdir()
    path = pack(kind, [(name, name.encode()) for name in names], folder / f"a.{kind}")
    found = contents(path)
    assert list(found) == [
        "/etc/passwd", "../up.jpg", "a/../../b.jpg", "x.jpg", "x.jpg~2", "y.jpg", "x.jpg~2~2",
        "new\nline.jpg", "inner.zip", "c:\\d.jpg", "é.jpg", "#.jpg", "<b>.jpg",
    ]  # fmt: skip
    assert found.pop("inner.zip") == "unsupported_format"
    assert list(found.values()) == [n.encode() for n in names if n != "inner.zip"]
    assert os.listdir(folder) == [f"a.{kind}"] and os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(data=st.data())
def test_a_truncated_archive_loses_nothing_silently(tmp_path, kind, data):
    path, whole = str(tmp_path / f"x.{kind}"), packed(kind)
    cut = data.draw(st.integers(0, len(whole) - 1))
    Path(path).write_bytes(whole[:cut])
    found = contents(path, named=False)
    complete = {k: v for k, v in found.items() if k != path}
    if kind.startswith("tar") and path not in found:
        return  # only padding behind the end mark was cut
    at_boundary = kind == "tfrecord" and cut in _record_ends(whole)
    assert at_boundary or not found or path in found or "read_error" in found.values()
    if not at_boundary:
        assert found
    names = [n for n, _ in FILES] if kind in NAMED else [str(i) for i in range(len(FILES))]
    originals = dict(zip(names, (body for _, body in FILES), strict=True))
    if kind == "tar":  # nothing before the damage is lost
        assert len(complete) >= sum(end <= cut for end in _member_ends(whole))
    for name, body in complete.items():
        assert body == originals[name] or body in STATUSES


def _member_ends(whole):
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        return [member.offset_data + member.size for member in tar]


def _record_ends(whole):
    """A TFRecord file cut between two records is a whole TFRecord file."""
    ends, at = {0}, 0
    while at < len(whole):
        at += 16 + struct.unpack_from("<Q", whole, at)[0]
        ends.add(at)
    return ends


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(data=st.data())
def test_damage_anywhere_costs_typed_rows_only(tmp_path, kind, data):
    path, whole = str(tmp_path / f"x.{kind}"), bytearray(packed(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    Path(path).write_bytes(whole)
    contents(path, named=False)  # raises nothing


names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30
).filter(lambda name: name.strip("/") and not name.endswith("/"))


@pytest.mark.parametrize("kind", NAMED)
@quick
@given(files=st.lists(st.tuples(names, st.binary(max_size=300)), max_size=12))
def test_any_names_and_contents_come_back(tmp_path, kind, files):
    files = [(f"d/{name}.jpg", data) for name, data in files]
    files = [(n, d) for n, d in files if not any(p.startswith(".") for p in n.split("/"))]
    path = pack(kind, files, tmp_path / f"x.{kind}")
    assert list(contents(path).values()) == [data for _, data in files]


def test_an_unreadable_archive_is_one_row(tmp_path):
    path = pack("tar", FILES, tmp_path / "x.tar")
    os.unlink(path)
    os.symlink("gone", path)
    assert [read(row) for row in listed(tmp_path)] == ["not_found"]


def test_an_archive_of_too_many_members_is_cut_and_says_so(tmp_path):
    path = tmp_path / "many.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(5):
            archive.addfile(tarfile.TarInfo(f"{number}.jpg"))
    [batch, own] = list(list_images((str(path),), max_members=3))
    assert [uri.rpartition("#")[2] for uri in batch.column("uri").to_pylist()] == [
        "0.jpg",
        "1.jpg",
        "2.jpg",
    ]
    [row] = own.to_pylist()
    assert row["uri"] == str(path) and "--max-members" in row["member"]


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99), "a 7-Zip archive"),
        ("a.rar", b"Rar!\x1a\x07\x01" + bytes(99), "a RAR archive"),
        ("a.part2.rar", b"Rar!\x1a\x07\x01" + bytes(99), "a part of a split archive"),
        ("a.z01", b"PK\x07\x08" + bytes(99), "a part of a split archive"),
        ("a.z02", b"any bytes", "a part of a split archive"),
        ("a.zip.002", b"any bytes", "a part of a split archive"),
        ("a.7z.001", b"7z\xbc\xaf\x27\x1c", "a part of a split archive"),
        ("a.r00", b"any bytes", "a part of a split archive"),
        ("a.tar.Z", b"\x1f\x9d\x90" + bytes(99), "a compress (.Z) archive"),
        ("a.tar.lz", b"LZIP\x01" + bytes(99), "a lzip archive"),
        ("a.lzh", b"\x20\x00-lh5-" + bytes(99), "a LZH archive"),
        ("a.cab", b"MSCF" + bytes(99), "a cabinet (CAB) archive"),
    ],
)
def test_archives_that_are_not_read_are_named_in_a_row(tmp_path, name, data, what):
    (tmp_path / name).write_bytes(data)
    (text,) = found_in(tmp_path / name).values()
    assert text.startswith("unsupported_format: ") and what in text and "unpack it" in text
    assert len(found_in(tmp_path)) == 1


@pytest.mark.parametrize("name", ["x.arrow", "y.arrow", "x.feather", "x.orc", "x.avro"])
def test_tables_that_are_not_read_are_named_in_a_row(tmp_path, name):
    table = pa.table({"image": [b"a"]})
    if name == "y.arrow":  # as Hugging Face's save_to_disk writes it
        with pa.ipc.new_stream(str(tmp_path / name), table.schema) as stream:
            stream.write_table(table)
    elif name.endswith("orc"):
        orc.write_table(table, tmp_path / name)
    elif name.endswith("avro"):
        (tmp_path / name).write_bytes(b"Obj\x01" + bytes(99))
    else:
        feather.write_feather(table, str(tmp_path / name))
    (text,) = found_in(tmp_path / name).values()
    assert text.startswith("unsupported_format: a table of ") and text.endswith("as Parquet")
    assert len(found_in(tmp_path)) == 1


def test_what_lies_behind_a_packed_archive_is_named_in_plain_words(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        add_to_tar(tar, [("a.jpg", b"a")])
    content = gzip.decompress(path.read_bytes()).rstrip(b"\0")  # no end of the archive
    path.write_bytes(gzip.compress(content.ljust(1024, b"\0")) + b"something else")
    found = found_in(path)
    assert found.pop("a.jpg") == b"a"
    (text,) = found.values()
    assert text.startswith("read_error: damaged: Not a gzipped file")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_links_to_what_hidden_folders_hold_have_one_row(tmp_path, suffix):
    path = tmp_path / f"annex.{suffix}"
    with tarfile.open(path, "w:gz" if suffix == "tar.gz" else "w") as tar:
        add_to_tar(tar, [("repo/.git/annex/KEY.jpg", b"a"), ("repo/._c.jpg", b"x")])
        for name, target in (
            ("repo/b.jpg", ".git/annex/KEY.jpg"), ("repo/a.jpg", "./.git/annex/KEY.jpg"),
            ("repo/d/c.jpg", "../b.jpg"), ("repo/c.jpg", "._c.jpg"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        add_to_tar(tar, [("repo/z.jpg", b"z")])
    selection = Selection()
    found = found_in(path, selection=selection)
    assert found.pop("repo/c.jpg").startswith("not_an_image: a link to '._c.jpg'")
    assert found == {"repo/z.jpg": b"z", "repo/b.jpg": b"a"}
    assert selection.left_out == {"hidden": 2, "links": 2}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "zip"])
def test_a_link_to_what_is_excluded_has_its_row(tmp_path, suffix):
    path = tmp_path / f"links.{suffix}"
    links = [
        ("b/1.jpg", "../a/1.jpg"), ("b/again.jpg", "../a/1.jpg"), ("d/v1", "../a"),
        ("d/2.jpg", "v1/deep/2.jpg"), ("a/own.jpg", "../c.jpg"), ("b/3.gif", "../a/3.jpg"),
    ]  # fmt: skip
    files = [("a/1.jpg", b"1"), ("a/deep/2.jpg", b"2"), ("a/3.jpg", b"3"), ("c.jpg", b"c")]
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, target in links:
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, 0o120777 << 16
                archive.writestr(info, target)
            for name, data in files:
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if suffix == "tar.gz" else "w") as tar:
            add_to_tar(tar, files)
            for name, target in links:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, target
                tar.addfile(info)
    selection = Selection(exclude=("a", "*.gif"))
    found = found_in(path, selection=selection)
    assert found == {
        "c.jpg": b"c", "b/1.jpg": b"1", "d/v1/deep/2.jpg": b"2", "d/v1/3.jpg": b"3"
    }  # fmt: skip
    assert selection.left_out == {"excluded": 3, "links": 4}


def test_a_hard_link_to_what_is_excluded_is_data(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_to_tar(tar, [("a/1.jpg", b"1")])
        info = tarfile.TarInfo("b/1.jpg")
        info.type, info.linkname = tarfile.LNKTYPE, "a/1.jpg"
        tar.addfile(info)
    found = found_in(tmp_path / "a.tar", selection=Selection(exclude=("a",)))
    assert found == {"b/1.jpg": b"1"}
    found = found_in(tmp_path / "a.tar", selection=Selection(include=("b/*",)))
    assert found == {"b/1.jpg": b"1"}
    assert found_in(tmp_path / "a.tar") == {"a/1.jpg": b"1"}


def test_patterns_see_a_members_own_name(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_to_tar(tar, [("1.jpg", b"1"), ("1.jpg", b"2"), ("2.png", b"3")])
    found = found_in(tmp_path / "a.tar", selection=Selection(include=("*.jpg",)))
    assert found == {"1.jpg": b"1", "1.jpg~2": b"2"}


def test_a_link_through_a_link_to_a_folder_leads_to_what_has_a_row(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, target in (("now", "v1"), ("best.jpg", "now/1.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        add_to_tar(tar, [("v1/1.jpg", b"1")])
    selection = Selection()
    assert found_in(tmp_path / "a.tar", selection=selection) == {"v1/1.jpg": b"1"}
    assert selection.left_out == {"links": 2}


def test_links_to_members_with_dots_in_their_paths_make_no_row(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_to_tar(tar, [("./d/./a.jpg", b"1"), ("d//b.jpg", b"2"), ("d/a.jpg", b"3")])
        for name, target in (("d/l.jpg", "b.jpg"), ("m.jpg", "d/./a.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    found = found_in(tmp_path / "a.tar")
    assert found == {"d/./a.jpg": b"1", "d//b.jpg": b"2", "d/a.jpg": b"3"}


def test_links_make_no_second_row_and_rename_nothing(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind, target in (
            ("b.jpg", tarfile.SYMTYPE, "nowhere.jpg"),
            ("d/hard.jpg", tarfile.LNKTYPE, "d/a.jpg"),
            ("d/soft.jpg", tarfile.SYMTYPE, "a.jpg"),
            ("twice.jpg", tarfile.SYMTYPE, "d/soft.jpg"),
            ("latest", tarfile.SYMTYPE, "./d"),
            ("out.jpg", tarfile.SYMTYPE, "../../etc/passwd"),
            ("volume", b"V", ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        add_to_tar(tar, [("d/a.jpg", b"a"), ("b.jpg", b"b")])
    selection = Selection()
    found = found_in(tmp_path / "a.tar", selection=selection)
    assert list(found) == ["d/a.jpg", "b.jpg", "out.jpg"] and found["b.jpg"] == b"b"
    assert found["out.jpg"].startswith("not_an_image: a link to '../../etc/passwd'")
    assert selection.left_out["links"] == 5
