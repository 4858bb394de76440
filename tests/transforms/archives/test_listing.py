"""Packed archives: what is listed of them, what is read, and what hostile ones can do."""

import functools
import gzip
import io
import json
import os
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packing import KINDS, NAMED, add_to_tar, examples, framed, pack
from samples import make_photos

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives import tfrecord_archive
from imagecensus.transforms.archives.members import is_archive_name
from imagecensus.transforms.archives.reading import Place, as_stored, read_member, unpack
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.image_ref import ImageRef, Limits
from imagecensus.transforms.list_images import list_images, passthrough_columns
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.records import Status

STATUSES = {status.value for status in Status}
FILES = [(f"class-{i % 3}/{i:03d}.jpg", bytes([i]) * (50 + 37 * i)) for i in range(20)]
quick = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def listed(*inputs, **kwargs) -> list[dict]:
    batches = list(list_images(tuple(map(str, inputs)), **kwargs))
    return [row for batch in batches for row in batch.to_pylist()]


def read(row, max_bytes=1 << 20, place=None):
    """The bytes of a reference, or its status."""
    try:
        return read_image(ImageRef.of(row), max_bytes, place)
    except ImageError as error:
        assert error.status in STATUSES
        return error.status


def contents(path, named=True, **kwargs) -> dict:
    """Name in the archive → bytes or status, of all that is listed."""
    rows = listed(path if named else os.path.dirname(path), **kwargs)
    assert len({row["uri"] for row in rows}) == len(rows)
    with Place() as place:
        return {row["uri"].removeprefix(f"{path}#"): read(row, place=place) for row in rows}


@functools.cache
def packed(kind) -> bytes:
    """FILES in an archive; packed once, as gzip and protobuf do it differently each time."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(pack(kind, FILES, f"{folder}/x")).read_bytes()


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


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("a.tar", True), ("a.TGZ", True), ("a.tar.gz", True), ("a.zip", True), ("a.gz", False),
        ("x.tfrecord", True), ("x.tfrecords", True), ("x.tfrecord-00000-of-00008", True),
        ("x.tfrecord.gz", True), ("x.parquet", True), ("x.tar.bz2", True), ("tar", False),
        ("x.jpg", False), ("x.tar/y.jpg", False), ("x.tarjpg", False), ("", False),
    ],
)  # fmt: skip
def test_names_of_archives(name, is_one):
    assert is_archive_name(name) == is_one


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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NAMED])
@quick
@given(bodies=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=30))
def test_any_records_come_back(tmp_path, kind, bodies):
    path = pack(kind, [("n", body) for body in bodies], tmp_path / f"x.{kind}")
    assert list(contents(path).values()) == bodies


def test_columns_go_along_with_tables_that_are_named(tmp_path):
    for i in range(2):
        pack("hf.parquet", FILES[i * 3 : i * 3 + 3], tmp_path / f"{i}.parquet")
        pack("tfrecord", FILES[i * 3 : i * 3 + 3], tmp_path / f"x.tfrecord-0000{i}-of-00002")
    inputs = (str(tmp_path / "*.parquet"), str(tmp_path / "x.tfrecord*"))
    assert passthrough_columns(inputs) == pa.schema(
        {
            "manifest_label": pa.int64(),
            "image_class_label": pa.int64(),
            "image_filename": pa.string(),
        }
    )
    rows = listed(*inputs)
    assert [row.get("manifest_label") for row in rows] == [0, 1, 2, 0, 1, 2] + [None] * 6
    assert [row.get("image_filename") for row in rows][6:] == [name for name, _ in FILES[:6]]
    # Within a folder they are images only: its columns are not known before it is walked.
    assert passthrough_columns((str(tmp_path),)) == pa.schema([])
    assert set(listed(tmp_path)[0]) == {"uri", "size", "etag_or_mtime", "container", "member"}


def test_a_parquet_file_is_a_manifest_unless_it_holds_images(tmp_path):
    path = str(tmp_path / "a.parquet")
    (tmp_path / "x.jpg").write_bytes(b"x")
    pq.write_table(pa.table({"uri": ["x.jpg"], "thumbnail": [b"t"]}), path)
    assert [row["uri"] for row in listed(path)] == [str(tmp_path / "x.jpg")]
    assert contents(path, image_column="thumbnail") == {"0": b"t"}
    missing = {"bytes": None, "path": "elsewhere.jpg"}
    pq.write_table(pa.table({"image": [{"bytes": b"b", "path": "b.jpg"}, missing, None]}), path)
    assert contents(path) == {"0": b"b", "1": "not_found", "2": "not_found"}
    # Of a column that is not there, the archive itself is the row.
    assert contents(str(tmp_path / "*.parquet"), image_column="nope") == {path: "read_error"}


def test_features_of_tfrecords(tmp_path):
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    def write(*batches):
        records = [r for b in batches for r in RecordBatchToExamplesEncoder().encode(b)]
        (tmp_path / "x.tfrecord").write_bytes(b"".join(map(framed, records)))
        return str(tmp_path / "x.tfrecord")

    def batch(**columns):
        return pa.RecordBatch.from_pydict(columns)

    path = write(batch(photo=[[b"p"]], n=[[1]]))
    assert contents(path) == {path: "read_error"}
    assert "among n, photo; name it with --image-column" in json.loads(listed(path)[0]["member"])[2]
    assert contents(path, image_column="photo") == {"0": b"p"}
    path = write(batch(image=[[b"a"]], n=[[1]]), batch(other=[[1]]), batch(image=[[3]], n=[[b"t"]]))
    assert contents(path) == {"0": b"a", "1": "not_an_image", "2": "read_error"}
    assert [row["n"] for row in listed(path)] == [1, None, None]
    # Junk in a record, and a checksum that is wrong.
    good = framed(examples([("n", b"good")])[0])
    spoiled = bytearray(good)
    spoiled[-5] ^= 1
    (tmp_path / "x.tfrecord").write_bytes(good + framed(b"junk") + bytes(spoiled) + good)
    assert list(contents(path).values()) == [b"good", "read_error", "read_error", b"good"]


@pytest.mark.parametrize("named", [True, False])  # with and without the columns that go along
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_each_image_of_a_record_is_a_row(tmp_path, packing, named):
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    images = [[b"a"], [b"b0", b"b1", b"b2"], None, [], [b"", b"c1"], [b"d" * 100_000, b"e"]]
    columns = {"n": [[i] for i in range(len(images))], "image": images, "z": [[b"z"]] * len(images)}
    records = RecordBatchToExamplesEncoder().encode(pa.RecordBatch.from_pydict(columns))
    data = b"".join(map(framed, [*records, b"\x0a\x05junk", *records[:1]]))
    path = str(tmp_path / f"x.tfrecord{packing}")
    Path(path).write_bytes(gzip.compress(data) if packing else data)
    assert contents(path, named) == {
        "0": b"a", "1": b"b0", "1.1": b"b1", "1.2": b"b2", "2": "not_an_image",
        "3": "not_an_image", "4": b"", "4.1": b"c1", "5": b"d" * 100_000, "5.1": b"e",
        "6": "read_error", "7": b"a",
    }  # fmt: skip
    rows = listed(path if named else tmp_path)
    if named:
        assert [row["n"] for row in rows] == [0, 1, 1, 1, 2, 3, 4, 4, 5, 5, None, 0]
    if not packing:  # the bytes may be read in one process and opened in another one
        *where, _, index = json.loads(rows[3]["member"])
        record = Path(path).read_bytes()[where[1] :][: where[2] + 4]
        assert index == 2
        assert json.loads(as_stored(rows[3]["member"])) == ["record", where[1], where[2] + 4]
        assert unpack(rows[3]["member"], record) == b"b2"


@pytest.mark.parametrize("kind", ["tfrecord", "tfrecord.gz"])
def test_tfrecords_are_read_as_tfxio_reads_them(tmp_path, kind):
    """TFXIO's own source, over whole files, against ours, record by record by byte range."""
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from tfx_bsl.public.tfxio import RecordBatchesOptions, TFExampleRecord

    files = [(path, Path(path).read_bytes()) for path in make_photos(tmp_path / "photos", 30)]
    path = pack(kind, files, tmp_path / f"x.{kind}")
    rows = listed(path)
    assert [row["uri"] for row in rows] == [f"{path}#{n}" for n in range(30)]
    names = ("image_filename", "image_class_label")
    with Place() as place:
        ours = [(read(row, place=place), *(row[name] for name in names)) for row in rows]

    def theirs(batch):
        names = ("image/encoded", "image/filename", "image/class/label")
        values = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        return [(image, name.decode(), label) for [image], [name], [label] in values]

    source, found = TFExampleRecord(path), []
    if kind == "tfrecord":  # their reader without Beam knows no gzip
        options = RecordBatchesOptions(batch_size=7, num_epochs=1)
        found = [row for batch in source.RecordBatches(options) for row in theirs(batch)]
        assert sorted(found) == sorted(ours)  # theirs shuffles
    with beam.Pipeline(runner=fn_runner.FnApiRunner()) as pipeline:
        batches = pipeline | source.BeamSource(batch_size=7)
        texts = batches | beam.FlatMap(theirs) | beam.Map(repr)
        texts | beam.io.WriteToText(str(tmp_path / "theirs"), num_shards=1)
    [written] = tmp_path.glob("theirs*")
    assert sorted(written.read_text().splitlines()) == sorted(map(repr, ours))


def test_batches_of_records_are_those_of_tfxio(tmp_path):
    """Features that are ragged, missing or of all kinds, batch for batch."""
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder
    from tfx_bsl.public.tfxio import RecordBatchesOptions, TFExampleRecord

    batch = pa.RecordBatch.from_pydict(
        {
            "image": [[b"\xff\xd8 a"], None, [b""], [b"c", b"d"]],
            "number": [[1], [2, 3], None, []],
            "real": pa.array([None, [0.5], [], [1.5, 2.5]], pa.list_(pa.float32())),
        }
    )
    records = RecordBatchToExamplesEncoder().encode(batch)
    (tmp_path / "x.tfrecord").write_bytes(b"".join(map(framed, records)))
    options = RecordBatchesOptions(batch_size=4, num_epochs=1, shuffle=False)
    [theirs] = TFExampleRecord(str(tmp_path / "x.tfrecord")).RecordBatches(options)
    assert tfrecord_archive._decode(records).equals(theirs)


def test_tfrecords_without_tfx_bsl_name_the_remedy(tmp_path, monkeypatch):
    path = pack("tfrecord", FILES[:1], tmp_path / "x.tfrecord")
    hidden = "import sys; sys.modules['tfx_bsl.coders.example_coder'] = None"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # decoders that start now read it
    with (
        lease(Limits(max_side=1000)),
        pytest.raises(UserError, match="pip install 'imagecensus\\[tensorflow\\]'"),
    ):
        listed(path)


def test_an_archive_that_changes_after_listing_is_not_read(tmp_path):
    for kind in KINDS:
        path = pack(kind, FILES[:2], tmp_path / f"x.{kind}")
        rows = listed(path)
        os.utime(path, ns=(1, 1))
        assert [read(row) for row in rows] == ["read_error"] * 2
        os.unlink(path)
        assert [read(row) for row in rows] == ["not_found"] * 2


def test_an_unreadable_archive_is_one_row(tmp_path):
    path = pack("tar", FILES, tmp_path / "x.tar")
    os.unlink(path)
    os.symlink("gone", path)
    assert [read(row) for row in listed(tmp_path)] == ["not_found"]


def test_a_member_behind_the_place_starts_a_new_pass(tmp_path):
    for kind in ("tar.gz", "tfrecord.gz", "parquet"):
        rows = listed(pack(kind, FILES, tmp_path / f"x.{kind}"))
        with Place() as place:
            for i in (3, 17, 4, 4, 0, 19):
                assert read(rows[i], place=place) == FILES[i][1]


def test_too_large_members_are_not_read(tmp_path):
    for kind in KINDS:
        rows = listed(pack(kind, [("a.jpg", b"x" * 5000), ("b.jpg", b"y")], tmp_path / f"x.{kind}"))
        assert [read(row, max_bytes=1000) for row in rows] == ["too_large", b"y"]


def test_what_one_process_reads_another_one_unpacks(tmp_path):
    for kind in ("tar", "zip", "tfrecord"):
        for row in listed(pack(kind, FILES, tmp_path / f"x.{kind}")):
            stored = read({**row, "member": as_stored(row["member"])})
            assert unpack(row["member"], stored) == read(row)


def test_a_failed_member_needs_no_archive():
    member = json.dumps(["failed", "truncated", "why"])
    with pytest.raises(ImageError, match="why") as caught:
        read_member(ImageRef(uri="", container="/nowhere", member=member), 1, Place())
    assert caught.value.status == "truncated"


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
