"""Archives as other tools and systems make them: read, or named in a row as what they are."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packing import PACK, add_to_tar, pack
from pyarrow import feather, orc

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives import zip_archive
from imagecensus.transforms.archives.reading import Place
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.read_images import read_image


def contents(path, **options) -> dict:
    """Name in the archive ("": itself) → bytes, or status and message."""
    found = {}
    rows = [row for batch in list_images((str(path),), **options) for row in batch.to_pylist()]
    with Place() as place:
        for row in rows:
            try:
                got = read_image(ImageRef.of(row), 1 << 20, place)
            except ImageError as error:
                got = f"{error.status}: {error}"
            found[row["uri"][len(str(path)) + 1 :]] = got
    return found


def tar_bytes(*files) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        add_to_tar(tar, list(files))
    return plain.getvalue()


@pytest.mark.parametrize("name", ["x.tar.bz2", "x.tbz2", "x.txz", "x.tar.lzma", "x.tzst", "x.bin"])
def test_packed_tars_under_all_their_names(tmp_path, name):
    packing = {"x.tbz2": "bz2", "x.txz": "xz", "x.tzst": "zst", "x.bin": "xz"}.get(name, name[6:])
    data = tar_bytes(("a.jpg", b"a" * 3000), ("b.jpg", b"b"))
    half = len(data) // 2
    joined = PACK[packing](data[:half]) + PACK[packing](data[half:])  # as pbzip2 and pixz write
    for packed in (PACK[packing](data), joined if packing != "lzma" else PACK[packing](data)):
        (tmp_path / name).write_bytes(packed)
        assert contents(tmp_path / name) == {"a.jpg": b"a" * 3000, "b.jpg": b"b"}


def gnu_tar(folder, files, *options) -> bytes:
    """A tar of files, given by name, with their zeros as holes."""
    for name, data in files.items():
        with open(folder / name, "wb") as file:
            for at in range(0, len(data), 4096):
                if any(data[at : at + 4096]):
                    file.seek(at)
                    file.write(data[at : at + 4096])
            file.truncate(len(data))
    said = subprocess.run(["tar", "--version"], capture_output=True, text=True, check=False)
    if "GNU tar" not in said.stdout:
        pytest.skip("needs GNU tar")
    command = ["tar", "-c", "--sparse", "--hole-detection=raw", *options, *files]
    whole = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        assert any(info.issparse() for info in tar)
    return whole


@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.parametrize(
    "how", [("--format=gnu",), *(("--format=posix", f"--sparse-version={v}")
                                 for v in ("0.0", "0.1", "1.0"))]
)  # fmt: skip
def test_sparse_members_are_read_as_the_files_that_they_were(tmp_path, how, packing):
    hole = bytes(65536)
    stored = {
        "a.jpg": b"start" * 1000 + hole + b"end",
        "b.jpg": hole + b"behind a hole" + hole,
        "c.jpg": b"".join(hole[:12288] + bytes([1 + piece]) * 4096 for piece in range(40)),
        "d.jpg": hole,
        "e.jpg": b"no hole",
        "f" * 120 + ".jpg": hole + b"long name",
    }
    whole = gnu_tar(tmp_path, stored, *how)
    path = tmp_path / f"x.tar{packing}"
    path.write_bytes(PACK["gz"](whole) if packing else whole)
    assert contents(path) == stored
    # Each cut costs the members behind it, and nothing is made up.
    cut = whole[: whole.index(b"end") + 1]
    path.write_bytes(PACK["gz"](cut) if packing else cut)
    found = contents(path)
    assert found["a.jpg"].startswith("truncated") and found[""].startswith("truncated")
    assert found.keys() == {"a.jpg", ""}


def test_a_sparse_member_whose_map_is_damaged_is_a_row_that_says_so(tmp_path):
    data = b"a" * 9000 + bytes(65536) + b"b"
    whole = bytearray(gnu_tar(tmp_path, {"a.jpg": data}, "--format=gnu"))
    for at, text in ((386, b"00000777777"), (398, b"77777777777"), (398, b"\xff" * 12)):
        damaged = whole.copy()
        damaged[at : at + len(text)] = text
        damaged[148:156] = b"%06o\0 " % (sum(damaged[:148]) + 8 * 32 + sum(damaged[156:512]))
        (tmp_path / "x.tar").write_bytes(damaged)
        said = contents(tmp_path / "x.tar")["a.jpg"]
        assert said == "read_error: the map of the sparse member is damaged"


@pytest.mark.parametrize("packing", ["zlib", "gz", "zst"])
def test_tfrecords_in_every_packing(tmp_path, packing):
    path = pack(f"tfrecord.{packing}", [("n", b"a"), ("n", b"b")], tmp_path / "x.tfrecord")
    assert contents(path) == {"0": b"a", "1": b"b"}
    os.rename(path, tmp_path / "x.tfrec")  # as Kaggle calls them
    assert contents(tmp_path) == {"x.tfrec#0": b"a", "x.tfrec#1": b"b"}


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
    (text,) = contents(tmp_path / name).values()
    assert text.startswith("unsupported_format: ") and what in text and "unpack it" in text
    assert len(contents(tmp_path)) == 1


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
    (text,) = contents(tmp_path / name).values()
    assert text.startswith("unsupported_format: a table of ") and text.endswith("as Parquet")
    assert len(contents(tmp_path)) == 1


def test_the_last_part_of_a_split_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("a.jpg", b"a")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<H", data, data.rindex(b"PK\5\6") + 4, 2)
    (tmp_path / "a.zip").write_bytes(data)
    (text,) = contents(tmp_path / "a.zip").values()
    assert "unsupported_format: a part of a split archive" in text


def zip_bytes(*members, comment=b"") -> bytes:
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as packed:
        packed.comment = comment
        for name, data in members:
            packed.writestr(name, data)
    return plain.getvalue()


def in_zip64(whole: bytes) -> bytes:
    """The archive with the records of one that has 4 GB, its end in them alone."""
    at = whole.rindex(b"PK\5\6")
    count, length, offset = struct.unpack_from("<HLL", whole, at + 10)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0)
    return whole[:at] + record + locator + end


@pytest.mark.parametrize("large", [False, True], ids=["zip", "zip64"])
@pytest.mark.parametrize("before", [b"", b"#!/bin/sh\nexit\n" * 9])
@pytest.mark.parametrize(
    "behind", [b"", b"\0" * 3000, b"signed: PK\5\6 " * 99, b"PK\5\6", b"\0" * 70_000],
    ids=["nothing", "zeros", "marks", "a mark", "a block"],
)  # fmt: skip
def test_zips_with_something_before_or_behind(tmp_path, before, behind, large):
    whole = zip_bytes(("a.jpg", b"a"), ("b.jpg", b"b" * 5000))
    whole = in_zip64(whole) if large else whole
    path = tmp_path / "a.zip"
    path.write_bytes(before + whole + behind)
    assert contents(path) == {"a.jpg": b"a", "b.jpg": b"b" * 5000}
    if not large and len(behind) < 1 << 16:  # as the archive's comment
        whole = whole[:-2] + len(behind).to_bytes(2, "little")
        path.write_bytes(before + whole + behind)
        assert contents(path) == {"a.jpg": b"a", "b.jpg": b"b" * 5000}


def test_a_comment_may_hold_what_ends_other_zips(tmp_path):
    other = zip_bytes(("c.jpg", b"c" * 99))
    end, empty = other[-22:], zip_bytes()
    split = end[:4] + b"\1\0\0\0" + end[8:]
    for comment in (end, empty, split, end[:-1], b"PK\6\7" + bytes(99) + end, end + b"." * 99):
        (tmp_path / "a.zip").write_bytes(zip_bytes(("a.jpg", b"a"), comment=comment))
        assert contents(tmp_path / "a.zip") == {"a.jpg": b"a"}
        (tmp_path / "a.zip").write_bytes(zip_bytes(comment=comment))  # an empty one
        assert "a.jpg" not in contents(tmp_path / "a.zip")
    # Of zips that were joined the last is seen, as by every other program.
    (tmp_path / "a.zip").write_bytes(zip_bytes(("a.jpg", b"a")) + other)
    assert contents(tmp_path / "a.zip") == {"c.jpg": b"c" * 99}


def test_a_gap_between_the_directory_and_its_end(tmp_path):
    whole = zip_bytes(("a.jpg", b"a"), ("b.jpg", b"b"))
    (tmp_path / "a.zip").write_bytes(whole[:-22] + b"PK\5\5\4\0sign" + whole[-22:])
    assert contents(tmp_path / "a.zip") == {"a.jpg": b"a", "b.jpg": b"b"}
    for cut in (whole[:-23], whole[:30], whole[:-22] + whole[-10:]):
        (tmp_path / "a.zip").write_bytes(cut)
        (said,) = contents(tmp_path / "a.zip").values()
        assert said.startswith("truncated: no readable central directory")


def zip_of(path, *members, system=3, method=zipfile.ZIP_STORED) -> None:
    """A zip whose names are the given bytes, and say nothing of their encoding."""
    stand_ins = [bytes([ord("A") + i]) * len(name) for i, (name, _) in enumerate(members)]
    with zipfile.ZipFile(path, "w", method) as packed:
        for stand_in, (_, data) in zip(stand_ins, members, strict=True):
            info = zipfile.ZipInfo(stand_in.decode())
            info.create_system, info.compress_type = system, method
            packed.writestr(info, data)
    whole = path.read_bytes()
    for stand_in, (name, _) in zip(stand_ins, members, strict=True):
        whole = whole.replace(stand_in, name)
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("names", "system", "encoding", "shown"),
    [
        (["cats\\one.jpg", "cats\\.hidden.jpg", "cats\\sub\\"], 3, "", ["cats/one.jpg"]),
        (["cats\\one.jpg", "x/two.jpg"], 0, "", ["cats/one.jpg", "x/two.jpg"]),
        (["cats\\one.jpg", "x/two.jpg"], 3, "", ["cats\\one.jpg", "x/two.jpg"]),
        (["dogs\\Thumbs.db", "dogs\\1.jpg"], 10, "", ["dogs/1.jpg"]),
        (["猫/写真.jpg".encode()], 3, "", ["猫/写真.jpg"]),
        (["猫/写真.jpg".encode("shift_jis")], 0, "shift_jis", ["猫/写真.jpg"]),
        (["表/十.jpg".encode("shift_jis")], 0, "shift_jis", ["表/十.jpg"]),
        (["кот.jpg".encode("cp866")], 0, "cp866", ["кот.jpg"]),
        (["über.jpg".encode("cp437")], 0, "", ["über.jpg"]),
    ],
)
def test_names_in_zips_of_other_systems(tmp_path, names, system, encoding, shown):
    raw = [name if isinstance(name, bytes) else name.encode() for name in names]
    zip_of(tmp_path / "a.zip", *((name, b"" if name.endswith(b"\\") else b"x") for name in raw),
           system=system)  # fmt: skip
    assert list(contents(tmp_path / "a.zip", zip_encoding=encoding)) == shown


def test_a_zip_with_names_in_utf8_beside_those_of_dos(tmp_path):
    name = "猫.jpg"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        info = zipfile.ZipInfo("_.jpg")
        field = b"\1" + struct.pack("<I", zlib.crc32(b"_.jpg")) + name.encode()
        info.extra = struct.pack("<HH", 0x7075, len(field)) + field
        packed.writestr(info, b"x")
        stale = zipfile.ZipInfo("other.jpg")
        stale.extra = info.extra  # of another name: it was renamed since
        packed.writestr(stale, b"y")
    assert contents(tmp_path / "a.zip") == {name: b"x", "other.jpg": b"y"}


def deflate64(data):
    """By a child process: where TensorFlow is loaded the packer calls its zlib, and crashes."""
    pytest.importorskip("inflate64")
    code = (
        "import inflate64, sys; packer = inflate64.Deflater()\n"
        "sys.stdout.buffer.write(packer.deflate(sys.stdin.buffer.read()) + packer.flush())"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    return done.stdout


@pytest.mark.parametrize(("method", "packing"), [(9, "deflate64"), (93, "zst"), (95, "xz")])
def test_zips_with_newer_methods(tmp_path, method, packing):
    body = (PACK | {"deflate64": deflate64})[packing](b"image" * 500)
    zip_of(tmp_path / "a.zip", (b"a.jpg", body))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        struct.pack_into("<H", data, data.index(mark) + at, method)
        crc = zlib.crc32(b"image" * 500)
        struct.pack_into("<III", data, data.index(mark) + at + 6, crc, len(body), 2500)
    (tmp_path / "a.zip").write_bytes(data)
    assert contents(tmp_path / "a.zip") == {"a.jpg": b"image" * 500}
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 16, 1)
    (tmp_path / "a.zip").write_bytes(data)
    assert "checksum" in contents(tmp_path / "a.zip")["a.jpg"]


@pytest.mark.parametrize("fault", ["bomb", "cut", "damaged", "not installed"])
def test_deflate64_that_is_not_what_it_says_is_a_failed_row(monkeypatch, fault):
    image = os.urandom(300_000) + b"a" * 300_000
    packed, size = bytearray(deflate64(image)), len(image)
    if fault == "bomb":
        size = 1000
    elif fault == "cut":
        del packed[200_000:]
    elif fault == "damaged":
        packed[1:5000] = b"\xff" * 4999
    else:
        monkeypatch.setitem(sys.modules, "inflate64", None)
    header = struct.pack("<4s22xHH", b"PK\3\4", 0, 0)
    where = (0, 0, len(packed), size, 9, 0, zlib.crc32(image))
    with pytest.raises(ImageError) as told:
        zip_archive.read_member(lambda at, length: (header + packed)[at : at + length], where)
    status, said = {
        "bomb": ("read_error", "checksum"), "cut": ("truncated", "of 600,000 declared"),
        "damaged": ("read_error", "damaged: "),
        "not installed": ("unsupported_format", "[formats]"),
    }[fault]  # fmt: skip
    assert told.value.status == status and said in str(told.value)


@pytest.mark.parametrize(("method", "what"), [(6, "imploded"), (98, "PPMd"), (77, "unknown")])
def test_methods_that_are_not_read_are_named(tmp_path, method, what):
    zip_of(tmp_path / "a.zip", (b"a.jpg", b"x"), method=zipfile.ZIP_DEFLATED)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<H", data, data.index(b"PK\1\2") + 10, method)
    (tmp_path / "a.zip").write_bytes(data)
    assert what in contents(tmp_path / "a.zip")["a.jpg"]


def test_joined_tars_are_read_to_the_end_and_other_bytes_behind_one_are_told(tmp_path):
    path = tmp_path / "a.tar"
    one, two = tar_bytes(("a.jpg", b"a")), tar_bytes(("b.jpg", b"b"))
    path.write_bytes(one + two)
    assert contents(path) == {"a.jpg": b"a", "b.jpg": b"b"}
    path.write_bytes(one + b"junk" * 400)
    found = contents(path)
    assert found["a.jpg"] == b"a" and "behind" not in found
    assert "what follows the archive's end mark" in found[""]
    path.write_bytes(bytes(1 << 16))
    assert "nothing but 65,536 zero bytes" in contents(path)[""]
    (tmp_path / "zeros.zip").write_bytes(bytes(1 << 16))
    assert len(contents(tmp_path / "zeros.zip")) == 1


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
    found = contents(tmp_path / "a.tar", selection=selection)
    assert list(found) == ["d/a.jpg", "b.jpg", "out.jpg"] and found["b.jpg"] == b"b"
    assert found["out.jpg"].startswith("not_an_image: a link to '../../etc/passwd'")
    assert selection.left_out["links"] == 5


def test_links_in_zips(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name, target in (("soft.jpg", "d/a.jpg"), ("out.jpg", "/etc/passwd")):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            packed.writestr(info, target)
        packed.writestr("d/a.jpg", b"a")
    found = contents(tmp_path / "a.zip")
    assert list(found) == ["d/a.jpg", "out.jpg"] and "a link to '/etc/passwd'" in found["out.jpg"]


TWO = [b"one", b"two"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("plain", pa.array(TWO, pa.binary())),
        ("large", pa.array(TWO, pa.large_binary())),
        ("view", pa.array(TWO, pa.binary_view())),
        ("numbers", pa.array([list(b) for b in TWO], pa.list_(pa.uint8()))),
        ("signed numbers", pa.array([[n - 256 if n > 127 else n for n in b] for b in TWO],
                                    pa.large_list(pa.int8()))),
        ("lists of numbers", pa.array([[list(b)] for b in TWO], pa.list_(pa.list_(pa.uint8())))),
        ("fixed", pa.array(TWO, pa.binary(3))),
        ("dictionary", pa.array(TWO).dictionary_encode()),
        ("struct", pa.array([{"bytes": b, "path": None} for b in TWO], STRUCT)),
        ("large struct", pa.array([{"bytes": b} for b in TWO],
                                  pa.struct([("bytes", pa.large_binary())]))),
        ("nested", pa.array([{"image": {"bytes": b}} for b in TWO])),
        ("other field", pa.array([{"format": "JPEG", "content": b} for b in TWO])),
        ("list", pa.array([[b] for b in TWO])),
        ("list of structs", pa.array([[{"bytes": b, "path": "x"}] for b in TWO], pa.list_(STRUCT))),
        ("large list", pa.array([[b] for b in TWO], pa.large_list(pa.large_binary()))),
        ("struct of lists", pa.array([{"frames": [b]} for b in TWO])),
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["image", "odd.name"])
def test_images_in_columns_of_any_type(tmp_path, name, values, column):
    table = pa.table({"n": [1, 2], column: values})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    assert contents(tmp_path / "a.parquet") == {"0": b"one", "1": b"two"}
    assert contents(tmp_path / "a.parquet", image_column=column) == {"0": b"one", "1": b"two"}


def test_several_images_in_a_row_are_a_row_each(tmp_path):
    lists = pa.array([[b"a", b"b", b"c"], [], None, [b"d", None]])
    pq.write_table(pa.table({"image": lists, "n": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    found = contents(tmp_path / "a.parquet")
    assert {k: v for k, v in found.items() if isinstance(v, bytes)} == {
        "0": b"a", "0.1": b"b", "0.2": b"c", "3": b"d",
    }  # fmt: skip
    assert [k for k, v in found.items() if "holds no bytes" in v.__repr__()] == ["1", "2", "3.1"]
    rows = [r for b in list_images((str(tmp_path / "a.parquet"),)) for r in b.to_pylist()]
    assert [row["n"] for row in rows] == [1, 1, 1, 2, 3, 4, 4]


def test_a_row_with_a_path_in_place_of_bytes_says_so(tmp_path):
    (tmp_path / "b.jpg").write_bytes(b"never read")  # an archive leads to nothing outside of it
    some = [{"bytes": b"a", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None]
    for name, values in (
        ("a", pa.array(some, STRUCT)),
        ("b", pa.array([some], pa.list_(STRUCT))),
        ("c", pa.array([{"left": one} for one in some], pa.struct([("left", STRUCT)]))),
    ):
        pq.write_table(pa.table({"image": values}), tmp_path / f"{name}.parquet")
        first, second, third = contents(tmp_path / f"{name}.parquet").values()
        assert first == b"a" and third == "not_found: the row holds no bytes"
        expected = "not_found: the row holds no bytes, only the path 'b.jpg': name it in a list"
        assert second == expected


def test_a_field_is_named_with_dots(tmp_path):
    values = pa.array([{"left": {"bytes": b"l"}, "right": {"bytes": b"r"}}])
    pq.write_table(pa.table({"pair": values, "uri": ["x"]}), tmp_path / "a.parquet")
    assert contents(tmp_path / "a.parquet", image_column="pair.right") == {"0": b"r"}
    assert contents(tmp_path / "a.parquet", image_column="pair.left.bytes") == {"0": b"l"}


@pytest.mark.parametrize(
    "feature", [{"_type": "Image"}, [{"_type": "Image"}],
                {"_type": "Sequence", "feature": {"_type": "Image"}}]
)  # fmt: skip
def test_what_hugging_face_says_is_an_image_is_one(tmp_path, feature):
    features = {"image": {"_type": "Value", "dtype": "binary"}, "scan": feature,
                "sound": {"_type": "Audio"}}  # fmt: skip
    one = pa.array([{"bytes": b"scan", "path": None}], STRUCT)
    scan = pa.array([[{"bytes": b"scan", "path": None}]], pa.list_(STRUCT))
    table = pa.table(
        {"image": [b"mask"], "sound": one, "scan": one if "Image" in str(feature)[:20] else scan}
    )
    said = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": said})
    pq.write_table(table, tmp_path / "a.parquet")
    assert contents(tmp_path / "a.parquet") == {"0": b"scan"}
    for broken in ("{", "[]", '{"info": 3}'):
        pq.write_table(
            table.replace_schema_metadata({"huggingface": broken}), tmp_path / "b.parquet"
        )
        assert contents(tmp_path / "b.parquet") == {"0": b"mask"}
