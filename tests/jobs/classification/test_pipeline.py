"""The stages together through a real Beam pipeline: rows, parts, counters, strict equality."""

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import fn_runner
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import make_photos

from imagecensus.jobs.classification.pipeline import PipelineConfig, build_pipeline
from imagecensus.model_export.contract import read_contract
from imagecensus.transforms import counters
from imagecensus.transforms.dataset import parts
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.dataset.plan_units import plan_units
from imagecensus.transforms.decoders.decode_batch import DecodingConfig
from imagecensus.transforms.engines.classify_batch import ClassificationConfig
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.records import ImageBatch


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """23 good images and 4 broken ones."""
    folder = tmp_path_factory.mktemp("archive")
    make_photos(folder, 23)
    (folder / "00003.png").write_bytes(b"")
    (folder / "00007.gif").write_bytes(b"<html>")
    (folder / "00011.jpg.part").write_bytes((folder / "00011.jpg").read_bytes()[:500])
    (folder / "zz.jpg").symlink_to(folder / "gone.jpg")
    return folder


def run(archive, output, model, unit_rows=8, engine="openvino", **decoding):
    """Runs the pipeline on an archive; returns (rows as dicts by uri, counters, parts)."""
    layout = Layout(output=str(output))
    layout.make()
    planned = plan_units(
        list_images((str(archive),)),
        layout.state,
        "f",
        passthrough=pa.schema([]),
        unit_rows=unit_rows,
    )
    pipeline = beam.Pipeline(runner=fn_runner.FnApiRunner())
    build_pipeline(
        pipeline,
        planned.units,
        PipelineConfig(
            decoding=DecodingConfig(spec=read_contract(model).preprocess, **decoding),
            classification=ClassificationConfig(model=model, engine=engine, top_k=3),
            layout=layout,
            made_by={"run_id": "test", "fingerprint": "f"},
        ),
    )
    result = pipeline.run()
    result.wait_until_finish()
    counted = {
        metric.key.metric.name: metric.committed
        for metric in result.metrics().query()["counters"]
        if metric.key.metric.namespace == counters.NAMESPACE
    }
    locations = parts.list_parts(layout.parts)
    rows = [row for path in locations.values() for row in parts.read_part(path).to_pylist()]
    assert len({row["uri"] for row in rows}) == len(rows)
    return {row["uri"]: row for row in rows}, counted, locations


@pytest.fixture(scope="module")
def expected(archive, tiny_model, tmp_path_factory):
    return run(archive, tmp_path_factory.mktemp("expected"), tiny_model)


def test_counters_and_statuses(expected):
    rows, counted, locations = expected
    assert counted == {
        "units": 4,
        "images_read": 27,
        "bytes_read": sum(row["bytes"] or 0 for row in rows.values()),
        "images_ok": 23,
        "images_failed": 4,
        "parts_written": 4,
    }
    assert len(locations) == 4
    failures = {uri.rsplit("/")[-1]: row["status"] for uri, row in rows.items() if row["error"]}
    assert failures == {
        "00003.png": "empty_file",
        "00007.gif": "not_an_image",
        "00011.jpg.part": "truncated",
        "zz.jpg": "not_found",
    }


@settings(max_examples=8, deadline=None)
@given(
    unit_rows=st.integers(1, 30),
    batch_images=st.integers(1, 12),
    window_batches=st.integers(1, 4),
    threads=st.integers(1, 4),
)
def test_cutting_batching_and_threads_never_change_the_rows(
    archive, tiny_model, expected, tmp_path_factory, unit_rows, **decoding
):
    rows, _, _ = run(archive, tmp_path_factory.mktemp("out"), tiny_model, unit_rows, **decoding)
    assert rows == expected[0]


def test_another_engine_gives_the_same_rows_within_the_tolerance(
    archive, tiny_model, expected, tmp_path
):
    rows, _, _ = run(archive, tmp_path, tiny_model, engine="tensorflow")
    assert rows.keys() == expected[0].keys()
    for uri, row in rows.items():
        other = expected[0][uri]
        assert [e["class_id"] for e in row["top_k"] or ()] == [
            e["class_id"] for e in other["top_k"] or ()
        ]
        assert row["score"] == pytest.approx(other["score"], abs=1e-4)
        assert row["status"] == other["status"] and row["error"] == other["error"]


def test_pixels_are_never_pickled(archive, expected, tiny_model, tmp_path, monkeypatch):
    """Beam asks for the size of a batch: the coder knows it without encoding megabytes."""

    def refuse(batch, protocol):
        raise AssertionError("a batch of decoded images was pickled")

    monkeypatch.setattr(ImageBatch, "__reduce_ex__", refuse)
    assert run(archive, tmp_path, tiny_model)[0] == expected[0]
