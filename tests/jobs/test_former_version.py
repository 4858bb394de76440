"""What version 0.1 wrote is opened and gone on with: a model, and an output with two parts."""

from __future__ import annotations

import importlib
import json
import pathlib
import shutil

import pytest
from samples import make_photos, read_rows

from imagecensus.jobs.cli import COMMANDS, main
from imagecensus.model_export.verify import check_model

DATA = pathlib.Path(__file__).parents[1] / "data" / "v0.1"
MODEL = str(DATA / "model")
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


@pytest.fixture
def output(tmp_path):
    shutil.copytree(DATA / "output", tmp_path / "output")
    return tmp_path / "output"


def test_its_model_is_what_it_was():
    assert [finding for finding in check_model(MODEL) if not finding.ok] == []


def test_its_output_is_read_by_every_command(output, tmp_path, capsys):
    assert main(["status", str(output)]) == 0
    assert "13 images = 11 predicted + 2 failed  (balanced), in 2 parts" in capsys.readouterr().out
    assert main(["report", str(output)]) == 0
    assert "mixed" in (output / "report.html").read_text()
    assert main(["table", str(output), "--to", str(tmp_path / "t.csv")]) == 0
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 14
    first = read_rows(output).column("uri")[0].as_py()
    assert main(["similar", str(output), first, "--model", MODEL, "--top", "3"]) == 0
    assert main(["compact", str(output)]) == 0


def test_its_output_is_gone_on_with(output, tmp_path, capsys):
    before = {row["uri"]: row for row in read_rows(output).to_pylist()}
    make_photos(tmp_path / "more", 2)
    words = ["classify", str(tmp_path / "more"), "--output", str(output), "--model", MODEL]
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
def test_its_flags_are_taken(command, monkeypatch):
    parsers = []

    def stop(self, words):
        parsers.append(self)
        raise StopIteration

    monkeypatch.setattr("argparse.ArgumentParser.parse_known_args", stop)
    with pytest.raises(StopIteration):
        importlib.import_module(COMMANDS[command][0]).main([])
    known = {flag for action in parsers[0]._actions for flag in action.option_strings}
    assert {f"--{name}" for name in FLAGS[command].split()} <= known
