"""`import imagecensus`: the examples of docs/python.md run, and agree with the command."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import apache_beam as beam
import pytest
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that
from images import write_class_folders
from samples import make_photos, read_rows

import imagecensus
from imagecensus.jobs.api import run_job
from imagecensus.jobs.cli import main
from imagecensus.jobs.options.classify import ClassifyOptions

DOC = pathlib.Path(__file__).parents[3] / "docs" / "python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOC.read_text("utf-8"), re.S)


@pytest.fixture
def folder(tmp_path, tiny_model, monkeypatch):
    make_photos(tmp_path / "photos", 5)
    shutil.copytree(tiny_model, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_document_run(folder, capfd):
    write_class_folders(folder / "labelled", {"disc": 20, "stripes": 20})
    shown = {"imagecensus": imagecensus}
    for example in EXAMPLES:
        if "imagecensus.train" in example:
            shutil.rmtree(folder / "model")  # the only one that writes a model
        exec(compile(example, str(DOC), "exec"), shown)
    said = capfd.readouterr().out
    assert said.startswith("True 5 0\n")
    assert "'status': 'not_found'" in said
    assert shown["answers"].num_rows == 5
    assert shown["answers"].column_names == ["uri", "label", "score"]
    assert len(EXAMPLES) == 6


def test_classify_gives_the_rows_of_the_command(folder, capsys):
    result = imagecensus.classify(folder / "photos", output=folder / "a", model="model", top_k=2)
    assert capsys.readouterr().out == "", "what the command prints is in the result"
    assert main(["classify", "photos", "--output", "b", "--model", "model", "--top-k=2"]) == 0
    rows = result.table().sort_by("uri").drop_columns("status").to_pylist()
    expected = read_rows(folder / "b").sort_by("uri").drop_columns("status").to_pylist()
    assert rows == expected
    assert result.ok and result.totals["predicted"] == 5 and "classified 5 images" in result.summary
    again = imagecensus.classify("photos", output=folder / "a", model="model", top_k=2)
    assert again.totals["already_listed"] == 5 and again.totals["rows"] == 5


@pytest.mark.parametrize(
    "options, said",
    [
        ({"topk": 2}, r"unknown argument --topk; did you mean --top-k\?"),
        ({"top_k": 0}, "--top-k must be at least 1"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"top_k": "many"}, "--top-k: 'many' is not a whole number of 64 bits"),
        ({"compression": "lz4"}, "--compression: invalid choice"),
        ({"runner": "NoRunner"}, "--runner=NoRunner: Beam has no such runner"),
        ({"beam_options": "--no_such_flag"}, "unknown argument --no_such_flag"),
    ],
)
def test_a_mistake_is_a_sentence(folder, options, said):
    with pytest.raises(imagecensus.UserError, match=said):
        imagecensus.classify("photos", output="out", **{"model": "model", **options})
    assert not (folder / "out" / "predictions").exists()


def test_a_run_that_writes_no_report_does_not_answer_with_a_former_one(folder, monkeypatch):
    imagecensus.classify("photos", output="out", model="model")
    now = time.gmtime(time.time() + 2)
    monkeypatch.setattr(run_job.time, "gmtime", lambda: now)
    dry = imagecensus.classify("photos", output="out", model="model", dry_run=True)
    assert dry.report == dry.totals == {} and "nothing was written" in dry.summary


def test_a_column_that_the_table_lacks_is_a_sentence(folder):
    result = imagecensus.classify("photos", output="out", model="model")
    assert result.table("uri").column_names == ["uri"]
    with pytest.raises(imagecensus.UserError, match='no column "; it has uri, status,'):
        result.table(['"'])


def test_calls_from_several_threads_take_turns(folder, capsys):
    stdout = sys.stdout
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        calls = [
            threads.submit(imagecensus.classify, "photos", output=f"o{i}", model="model")
            for i in range(3)
        ]
    assert all("classified 5 images" in call.result().summary for call in calls)
    assert sys.stdout is stdout and capsys.readouterr().out == ""


def test_too_many_failures_are_a_result_that_is_not_ok(folder):
    for name in "abcdefg":
        (folder / "photos" / f"{name}.jpg").write_bytes(b"no image")
    result = imagecensus.classify("photos", output="out", model="model")
    assert not result.ok and result.totals["failed"] == 7


def test_the_transform_gives_one_row_per_uri(folder):
    """The same answers as the table, in a pipeline that is not ours."""
    paths = [*sorted(map(str, (folder / "photos").iterdir())), "gone.jpg"]
    imagecensus.classify("photos", output="out", model="model", top_k=2)
    expected = {row["uri"]: row for row in read_rows(folder / "out").to_pylist()}

    def check(rows):
        assert sorted(row["uri"] for row in rows) == sorted(paths)
        for row in rows:
            if row["uri"] == "gone.jpg":
                assert (row["status"], row["label"]) == ("not_found", None)
            else:
                assert row["label"] == expected[row["uri"]]["label"]
                assert row["score"] == pytest.approx(expected[row["uri"]]["score"], abs=1e-6)

    with test_pipeline.TestPipeline() as pipeline:
        rows = pipeline | beam.Create(paths) | imagecensus.ClassifyUris(model="model", top_k=2)
        assert_that(rows, check)


def test_the_transform_takes_nothing_but_text(folder):
    with pytest.raises(beam.typehints.decorators.TypeCheckError):
        _ = beam.Pipeline() | beam.Create([5]) | imagecensus.ClassifyUris(model="model")


def test_a_predictor_takes_locations_and_bytes(folder):
    predictor = imagecensus.Predictor(folder / "model", top_k=2)
    path = folder / "photos" / "00000.jpg"
    images = [str(path), path, ("a.jpg", path.read_bytes()), ("b.jpg", bytearray(b"no image"))]
    rows = list(predictor.predict([*images, "gone.jpg"]))
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["not_an_image", "not_found"]
    assert [row["uri"] for row in rows[:3]] == [str(path), str(path), "a.jpg"]
    for wrong in (path.read_bytes(), 5, ("a.jpg", "text")):
        with pytest.raises(TypeError, match="given by its location"):
            list(predictor.predict([wrong]))
    with pytest.raises(imagecensus.UserError, match="top_k must be at least 1"):
        imagecensus.Predictor("model", top_k=0)


def test_importing_is_quick_and_offers_what_it_names():
    code = (
        "import imagecensus, sys, json\n"
        "heavy = {'apache_beam', 'tensorflow', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "print(json.dumps([list(heavy), [hasattr(imagecensus, n) for n in imagecensus.__all__]]))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    heavy, there = json.loads(done.stdout.splitlines()[-1])
    assert heavy == [] and all(there)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        imagecensus.nothing  # noqa: B018


def test_options_with_several_values_are_lists():
    words = run_job._flags(
        ClassifyOptions, "classify",
        {"exclude": ["*.png", pathlib.Path("raw")], "include": "a", "relocate": ("/a", "/b")},
    )  # fmt: skip
    assert words == ["--exclude=*.png", "--exclude=raw", "--include=a", "--relocate", "/a", "/b"]


def test_a_notebook_s_event_loop_and_signals_are_left_alone(folder, caplog):
    async def cell() -> bool:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        result = imagecensus.classify("photos", output="census", model="model", no_report=True)
        assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        await asyncio.sleep(0)
        return result.ok

    assert asyncio.run(cell())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    with concurrent.futures.ThreadPoolExecutor(1) as elsewhere:  # where signals cannot be set
        again = elsewhere.submit(imagecensus.classify, "photos", output="census", model="model")
        assert again.result().ok


def test_a_script_needs_no_guard(folder):
    """Child processes are started anew, and do not run the script that started them."""
    (folder / "script.py").write_text(
        "import imagecensus\nprint(imagecensus.classify('photos', output='o', model='model').ok)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
