"""Datasets and models of released versions are resumed and read by this one.

`tests/data/vX.Y/` holds what that version wrote: a model, and the output of 13 images under
/imagecensus-golden (two of them failed), made with `--top-k 3 --embeddings --unit-images 8`. These
files are never made anew: if a test here fails, the change breaks people's datasets.
"""

import csv
import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from samples import make_photos, read_rows

from imagecensus.jobs import cli
from imagecensus.model_export.contract import read_contract, read_golden
from imagecensus.model_export.safety import check_graph
from imagecensus.transforms.engines.registry import load_engine
from imagecensus.transforms.records import OUTPUT_COLUMNS, prediction_schema

VERSIONS = sorted((pathlib.Path(__file__).parent / "data").glob("v*"))
pytestmark = pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)


@pytest.fixture
def output(version, tmp_path):
    shutil.copytree(version / "output", tmp_path / "output")
    return tmp_path / "output"


def _classify(version, output, tmp_path, *more_images):
    """The command that made the dataset, with more images in its manifest."""
    manifest = tmp_path / "list.csv"
    with open(version / "list.csv") as old, open(manifest, "w") as new:
        rows = list(csv.reader(old))
        writer = csv.writer(new)
        writer.writerow(rows[0])
        writer.writerows([f"/imagecensus-golden/{row[0]}", *row[1:]] for row in rows[1:])
        writer.writerows([path, "new", 2026] for path in more_images)
    return cli.main(
        ["classify", str(manifest), "--output", str(output), "--model", str(version / "model")]
        + ["--top-k", "3", "--embeddings", "--unit-images", "8", "--no-report"]
    )


def test_a_finished_dataset_is_resumed_and_nothing_redone(version, output, tmp_path):
    before = {path: path.read_bytes() for path in (output / "predictions").iterdir()}
    assert _classify(version, output, tmp_path) == 0
    assert {path: path.read_bytes() for path in (output / "predictions").iterdir()} == before
    totals = json.loads((output / "run_report.json").read_text())["totals"]
    assert totals["balanced"] and totals["already_listed"] == 13


def test_a_lost_part_is_redone_and_new_images_are_added(version, output, tmp_path):
    lost = min((output / "predictions").iterdir())
    rows_lost = pq.read_metadata(lost).num_rows
    lost.unlink()
    photos = make_photos(tmp_path / "photos", 2)
    # The old images are gone by now, so the rows of the lost part say so.
    assert _classify(version, output, tmp_path, *photos) in (0, 1)
    rows = read_rows(output).to_pylist()
    assert len(rows) == len({row["uri"] for row in rows}) == 15
    assert sum(row["status"] == "not_found" for row in rows) >= rows_lost
    assert [row["status"] for row in rows if row["uri"] in photos] == ["ok", "ok"]


def test_the_schema_grew_by_nullable_columns_only(version):
    old = pq.read_table(version / "output" / "predictions").schema
    passthrough = [field for field in old if field.name not in OUTPUT_COLUMNS]
    now = prediction_schema(passthrough, embedding_size=old.field("embedding").type.list_size)
    for field in old:
        assert now.field(field.name).type == field.type, field.name
        assert now.field(field.name).nullable == field.nullable, field.name
    for field in now:
        assert field.name in old.names or field.nullable, field.name


def test_the_report_reads_it(version, output):
    assert cli.main(["report", str(output)]) == 0
    assert "tiny 1" in (output / "report.html").read_text()


def test_the_model_answers_as_recorded(version):
    model = str(version / "model")
    assert len(read_contract(model).labels) == 4
    check_graph(model)
    golden = read_golden(model)
    engine = load_engine("openvino", model)
    class_ids, scores, _ = engine.infer(golden.images)
    golden.check(class_ids, scores, model)
    assert np.isfinite(scores).all()
