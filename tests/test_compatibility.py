"""Datasets and models of released versions are resumed and read by this one.

`tests/data/vX.Y/` holds what that version wrote: a model, and the output of 13 images under
/imagecensus-golden (two of them failed), made with `--top-k 3 --embeddings --unit-images 8`. These
files are never made anew: if a test here fails, the change breaks people's datasets.
"""

from __future__ import annotations

import csv
import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from samples import make_photos, read_rows

from imagecensus.jobs.cli import main, parse
from imagecensus.model_export.contract import read_contract, read_golden
from imagecensus.model_export.safety import check_graph
from imagecensus.model_export.verify import check_model
from imagecensus.transforms.dataset.layout import Layout, stored_identity
from imagecensus.transforms.engines.registry import load_engine
from imagecensus.transforms.records import OUTPUT_COLUMNS, prediction_schema

VERSIONS = sorted((pathlib.Path(__file__).parent / "data").glob("v*"))


# The flags that each command of version 0.1 had, but for --debug, which every command has.
FLAGS = {
    "browse": "port model",
    "classify": """
        output model weights model-digest trust-model top-k embeddings uri-column image-column limit
        shard retry-failed no-report dry-run max-failure-rate max-pixels max-side max-bytes
        max-members decode-seconds decode-memory engine precision threads unit-images compression
        runner
    """,
    "evaluate": "labels uri-column label-column",
    "export": "output labels input-range logits image-size resize crop name",
    "table": "format to embeddings",
    "plan": "model weights sample images deadline vcpus prices engine threads seed",
    "predict": "model weights top-k json engine trust-model",
    "report": "labels examples sample",
    "similar": "top duplicates threshold max-pictures model json",
    "train": """
        output recipe name label-column path-column split-column val-fraction test-fraction
        max-broken-rate cache-memory cache-disk backbone alpha weights trust-model image-size color
        hidden dropout epochs batch-size learning-rate schedule patience label-smoothing
        average-weights balance-classes augment feature-passes fine-tune fine-tune-epochs
        fine-tune-rate seed mixed-precision replicas fresh quiet
    """,
}


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def version(request):
    return request.param


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
    return main(
        ["classify", str(manifest), "--output", str(output), "--model", str(version / "model")]
        + ["--top-k", "3", "--embeddings", "--unit-images", "8", "--no-report"]
    )


def test_a_finished_dataset_is_resumed_and_nothing_redone(version, output, tmp_path):
    before = {path: path.read_bytes() for path in (output / "predictions").iterdir()}
    assert _classify(version, output, tmp_path) == 0
    assert {path: path.read_bytes() for path in (output / "predictions").iterdir()} == before
    totals = json.loads((output / "run_report.json").read_text())["totals"]
    assert totals["balanced"] and totals["already_listed"] == 13


def test_what_it_was_begun_with_is_known_by_its_former_name(version, output):
    assert "ingredients" in json.loads((output / "_imagecensus" / "dataset.json").read_text())
    assert stored_identity(Layout(output=str(output)))["top_k"] == 3
    assert main(["report", str(output)]) == 0
    assert "preprocess.height" in (output / "report.html").read_text()


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


def test_the_model_answers_as_recorded(version):
    model = str(version / "model")
    assert len(read_contract(model).labels) == 4
    check_graph(model)
    golden = read_golden(model)
    engine = load_engine("openvino", model)
    class_ids, scores, _ = engine.infer(golden.images)
    golden.check(class_ids, scores, model)
    assert np.isfinite(scores).all()
    assert [finding for finding in check_model(model) if not finding.ok] == []


def test_every_command_reads_it(version, output, tmp_path, capsys):
    assert main(["status", str(output)]) == 0
    assert "13 images = 11 predicted + 2 failed  (balanced), in 2 parts" in capsys.readouterr().out
    assert main(["report", str(output)]) == 0
    page = (output / "report.html").read_text()
    assert "mixed" in page and "tiny 1" in page
    assert main(["table", str(output), "--to", str(tmp_path / "t.csv")]) == 0
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 14
    first = read_rows(output).column("uri")[0].as_py()
    assert (
        main(["similar", str(output), first, "--model", str(version / "model"), "--top", "3"]) == 0
    )
    assert main(["compact", str(output)]) == 0


def test_other_images_are_added_by_other_inputs(version, output, tmp_path, capsys):
    before = {row["uri"]: row for row in read_rows(output).to_pylist()}
    make_photos(tmp_path / "more", 2)
    words = [
        "classify",
        str(tmp_path / "more"),
        "--output",
        str(output),
        "--model",
        str(version / "model"),
    ]
    words += ["--top-k", "3", "--embeddings", "--engine", "openvino"]
    assert main(words) == 0
    after = {row["uri"]: row for row in read_rows(output).to_pylist()}
    assert len(after) == 15 and set(before) < set(after)
    assert all(after[uri]["label"] == row["label"] for uri, row in before.items())
    report = json.loads((output / "run_report.json").read_text())
    assert report["totals"]["balanced"] and report["totals"] == report["books"]
    assert main([*words[:-2], "--top-k", "2"]) == 2  # another dataset
    assert "never mixed" in capsys.readouterr().err


@pytest.mark.parametrize("command", FLAGS)
def test_flags_of_the_first_version_are_taken(command, monkeypatch):
    parsers = []

    def stop(self, words, namespace):
        parsers.append(self)
        raise StopIteration

    monkeypatch.setattr("argparse.ArgumentParser.parse_known_args", stop)
    with pytest.raises(StopIteration):
        parse(command, [])
    known = {flag for action in parsers[0]._actions for flag in action.option_strings}
    assert {f"--{name}" for name in FLAGS[command].split()} <= known
