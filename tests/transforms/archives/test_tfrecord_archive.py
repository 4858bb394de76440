"""TFRecord files: packings, features, and agreement with TFXIO."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listings import FILES, contents, found_in, listed, read
from packing import KINDS, NAMED, examples, framed, pack
from samples import make_photos

from imagecensus.model_export.common.errors import UserError
from imagecensus.transforms.archives import tfrecord_archive
from imagecensus.transforms.archives.reading import Place, as_stored, unpack
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.image_ref import Limits

quick = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30
).filter(lambda name: name.strip("/") and not name.endswith("/"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NAMED])
@quick
@given(bodies=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=30))
def test_any_records_come_back(tmp_path, kind, bodies):
    path = pack(kind, [("n", body) for body in bodies], tmp_path / f"x.{kind}")
    assert list(contents(path).values()) == bodies


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


@pytest.mark.parametrize("packing", ["zlib", "gz", "zst"])
def test_tfrecords_in_every_packing(tmp_path, packing):
    path = pack(f"tfrecord.{packing}", [("n", b"a"), ("n", b"b")], tmp_path / "x.tfrecord")
    assert found_in(path) == {"0": b"a", "1": b"b"}
    os.rename(path, tmp_path / "x.tfrec")  # as Kaggle calls them
    assert found_in(tmp_path) == {"x.tfrec#0": b"a", "x.tfrec#1": b"b"}
