"""Zips of every method and system, split, with other bytes around them, and hostile ones."""

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from listings import contents, found_in, listed, read
from packing import PACK

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives import zip_archive


def test_members_of_a_zip_that_cannot_be_read(tmp_path):
    path = str(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("good.jpg", b"good" * 100, zipfile.ZIP_BZIP2)
        packed.writestr("lzma.jpg", b"lzma" * 100, zipfile.ZIP_LZMA)
        packed.writestr("stored.jpg", b"s" * 1000, zipfile.ZIP_STORED)
        packed.writestr("folder/", b"")
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"s" * 1000)
    data[at] ^= 1
    Path(path).write_bytes(data)
    assert contents(path) == {
        "good.jpg": b"good" * 100,
        "lzma.jpg": b"lzma" * 100,
        "stored.jpg": "read_error",
        "link.jpg": "not_an_image",
    }
    for field, value, status in ((8, 1, "permission_denied"), (10, 99, "unsupported_format")):
        changed = bytearray(data)
        struct.pack_into("<H", changed, changed.index(b"PK\x01\x02") + field, value)
        Path(path).write_bytes(changed)
        assert contents(path)["good.jpg"] == status


def test_a_zip_bomb_is_refused_before_it_is_inflated(tmp_path):
    path = str(tmp_path / "bomb.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.writestr("bomb.jpg", bytes(64 << 20))
    row = listed(path)[0]
    assert read(row, max_bytes=1 << 20) == "too_large"
    # One that lies about its size gives no more than it declared.
    data = bytearray(Path(path).read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 1000)
    Path(path).write_bytes(data)
    assert read(listed(path)[0], max_bytes=1 << 20) == "read_error"


def test_the_last_part_of_a_split_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("a.jpg", b"a")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<H", data, data.rindex(b"PK\5\6") + 4, 2)
    (tmp_path / "a.zip").write_bytes(data)
    (text,) = found_in(tmp_path / "a.zip").values()
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
    assert found_in(path) == {"a.jpg": b"a", "b.jpg": b"b" * 5000}
    if not large and len(behind) < 1 << 16:  # as the archive's comment
        whole = whole[:-2] + len(behind).to_bytes(2, "little")
        path.write_bytes(before + whole + behind)
        assert found_in(path) == {"a.jpg": b"a", "b.jpg": b"b" * 5000}


def test_a_comment_may_hold_what_ends_other_zips(tmp_path):
    other = zip_bytes(("c.jpg", b"c" * 99))
    end, empty = other[-22:], zip_bytes()
    split = end[:4] + b"\1\0\0\0" + end[8:]
    for comment in (end, empty, split, end[:-1], b"PK\6\7" + bytes(99) + end, end + b"." * 99):
        (tmp_path / "a.zip").write_bytes(zip_bytes(("a.jpg", b"a"), comment=comment))
        assert found_in(tmp_path / "a.zip") == {"a.jpg": b"a"}
        (tmp_path / "a.zip").write_bytes(zip_bytes(comment=comment))  # an empty one
        assert "a.jpg" not in found_in(tmp_path / "a.zip")
    # Of zips that were joined the last is seen, as by every other program.
    (tmp_path / "a.zip").write_bytes(zip_bytes(("a.jpg", b"a")) + other)
    assert found_in(tmp_path / "a.zip") == {"c.jpg": b"c" * 99}


def test_a_gap_between_the_directory_and_its_end(tmp_path):
    whole = zip_bytes(("a.jpg", b"a"), ("b.jpg", b"b"))
    (tmp_path / "a.zip").write_bytes(whole[:-22] + b"PK\5\5\4\0sign" + whole[-22:])
    assert found_in(tmp_path / "a.zip") == {"a.jpg": b"a", "b.jpg": b"b"}
    for cut in (whole[:-23], whole[:30], whole[:-22] + whole[-10:]):
        (tmp_path / "a.zip").write_bytes(cut)
        (said,) = found_in(tmp_path / "a.zip").values()
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
    assert list(found_in(tmp_path / "a.zip", zip_encoding=encoding)) == shown


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
    assert found_in(tmp_path / "a.zip") == {name: b"x", "other.jpg": b"y"}


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
    assert found_in(tmp_path / "a.zip") == {"a.jpg": b"image" * 500}
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 16, 1)
    (tmp_path / "a.zip").write_bytes(data)
    assert "checksum" in found_in(tmp_path / "a.zip")["a.jpg"]


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
    assert what in found_in(tmp_path / "a.zip")["a.jpg"]


def test_links_in_zips(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name, target in (("soft.jpg", "d/a.jpg"), ("out.jpg", "/etc/passwd")):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            packed.writestr(info, target)
        packed.writestr("d/a.jpg", b"a")
    found = found_in(tmp_path / "a.zip")
    assert list(found) == ["d/a.jpg", "out.jpg"] and "a link to '/etc/passwd'" in found["out.jpg"]
