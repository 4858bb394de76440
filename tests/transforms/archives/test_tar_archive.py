"""Tars of every packing, whole, sparse, joined and hostile."""

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from listings import STATUSES, contents, found_in, listed
from packing import PACK, add_to_tar


def tar_of(path, *infos):
    with tarfile.open(path, "w") as tar:
        for info, data in infos:
            info.size = len(data) if info.size == 0 else info.size
            tar.addfile(info, io.BytesIO(data))
    return path


def info(name, kind=tarfile.REGTYPE, linkname=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, linkname
    return made


def test_members_of_a_tar_that_are_no_files(tmp_path):
    path = tar_of(
        tmp_path / "a.tar",
        (info("folder", tarfile.DIRTYPE), b""),
        (info("pipe", tarfile.FIFOTYPE), b""),
        (info("null", tarfile.CHRTYPE), b""),
        (info("soft.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (info("hard.jpg", tarfile.LNKTYPE, "../x"), b""),
        (info(os.fsdecode(b"latin-\xe9.jpg")), b"e"),
        (info("n" * 300 + ".jpg"), b"long"),
    )
    rows = listed(path)
    assert contents(path) == {
        "soft.jpg": "not_an_image",
        "hard.jpg": "not_an_image",
        "latin-%E9.jpg": b"e",
        "n" * 300 + ".jpg": b"long",
    }
    assert "a link to '/etc/passwd'" in json.loads(rows[-2]["member"])[2]


def test_a_tar_that_declares_more_than_there_is(tmp_path):
    huge = info("huge.jpg")
    huge.size = 10 << 30
    path = tar_of(tmp_path / "a.tar", (info("a.jpg"), b"a"))
    data = Path(path).read_bytes()[:1024] + huge.tobuf(tarfile.GNU_FORMAT) + b"begin"
    (tmp_path / "a.tar").write_bytes(data)
    found = contents(path)
    assert found == {"a.jpg": b"a", "huge.jpg": "truncated", str(path): "truncated"}
    negative = bytearray(huge.tobuf(tarfile.GNU_FORMAT))
    negative[124:136] = b"\xff" * 12
    negative[148:156] = b" " * 8
    negative[148:156] = b"%06o\0 " % sum(negative)
    (tmp_path / "a.tar").write_bytes(data[:1024] + negative + bytes(1024))
    assert contents(path)["a.jpg"] == b"a" and contents(path)[str(path)] != b""


def test_headers_that_would_fill_the_memory_end_the_listing(tmp_path):
    header = info("x", tarfile.XHDTYPE)
    header.size = 8 << 30
    first = tar_of(tmp_path / "a.tar", (info("a.jpg"), b"a"))
    content = Path(first).read_bytes()[:1024] + header.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(content + bytes(4096))
    assert contents(first) == {"a.jpg": b"a", str(first): "read_error"}
    chain = b"".join(
        info("x", tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT) for _ in range(5000)
    )
    (tmp_path / "a.tar").write_bytes(content[:1024] + chain)
    assert contents(first)["a.jpg"] == b"a"
    assert contents(first)[str(first)] in STATUSES


def test_gzip_of_zeros_takes_no_memory(tmp_path):
    import tracemalloc

    huge = info("huge.jpg")
    huge.size = 200 << 20
    path = str(tmp_path / "a.tgz")
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        with open("/dev/zero", "rb") as zeros:
            tar.addfile(huge, zeros)
        add_to_tar(tar, [("b.jpg", b"b")])
    tracemalloc.start()
    assert contents(path) == {"huge.jpg": "too_large", "b.jpg": b"b"}
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


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
        assert found_in(tmp_path / name) == {"a.jpg": b"a" * 3000, "b.jpg": b"b"}


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
    assert found_in(path) == stored
    # Each cut costs the members behind it, and nothing is made up.
    cut = whole[: whole.index(b"end") + 1]
    path.write_bytes(PACK["gz"](cut) if packing else cut)
    found = found_in(path)
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
        said = found_in(tmp_path / "x.tar")["a.jpg"]
        assert said == "read_error: the map of the sparse member is damaged"


def test_joined_tars_are_read_to_the_end_and_other_bytes_behind_one_are_reported(tmp_path):
    path = tmp_path / "a.tar"
    one, two = tar_bytes(("a.jpg", b"a")), tar_bytes(("b.jpg", b"b"))
    path.write_bytes(one + two)
    assert found_in(path) == {"a.jpg": b"a", "b.jpg": b"b"}
    path.write_bytes(one + b"junk" * 400)
    found = found_in(path)
    assert found["a.jpg"] == b"a" and "behind" not in found
    assert "what follows the archive's end mark" in found[""]
    path.write_bytes(bytes(1 << 16))
    assert "nothing but 65,536 zero bytes" in found_in(path)[""]
    (tmp_path / "zeros.zip").write_bytes(bytes(1 << 16))
    assert len(found_in(tmp_path / "zeros.zip")) == 1
