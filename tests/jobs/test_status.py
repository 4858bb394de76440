"""`imagecensus status`: totals and what runs; nothing is classified or changed."""

from __future__ import annotations

import json

import pytest
from samples import make_photos

from imagecensus.jobs.classification.remote_job import RemoteJob, read_job, write_job
from imagecensus.jobs.cli import main
from imagecensus.transforms.dataset.layout import Layout


@pytest.fixture
def output(tiny_model, tmp_path):
    make_photos(tmp_path / "photos", 20)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no")
    words = ["classify", str(tmp_path / "photos"), f"--model={tiny_model}", "--no-report"]
    assert main([*words, f"--output={tmp_path}/out", "--unit-images=8"]) == 0
    return tmp_path / "out"


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_finished_output(output, capfd):
    capfd.readouterr()
    before = stamps(output)
    assert main(["status", f"{output}/"]) == 0
    said = capfd.readouterr().out
    assert "21 images = 20 predicted + 1 failed  (balanced), in 3 parts" in said
    assert "1 not_an_image" in said and "nothing runs" in said
    assert stamps(output) == before


@pytest.mark.parametrize("damage", ["missing", "damaged", "unplanned"])
def test_what_is_wrong_is_said(output, capfd, damage):
    part = min((output / "predictions").iterdir())
    if damage == "missing":
        part.unlink()
    elif damage == "damaged":
        part.write_bytes(part.read_bytes()[:-9])
    else:
        part.with_name("part-0.parquet").write_bytes(part.read_bytes())
    capfd.readouterr()
    assert main(["status", str(output), "--json"]) == 1
    found = json.loads(capfd.readouterr().out)
    assert found["balanced"] == (damage != "unplanned")
    assert bool(found["pending"]) == (damage != "unplanned")
    assert [bool(found[name]) for name in ("damaged", "unplanned")] == [
        damage == "damaged", damage == "unplanned",
    ]  # fmt: skip


def test_a_run_that_has_not_listed_its_inputs_yet(output, capfd):
    """Nothing is missing of what is planned, as nothing is."""
    for path in (*output.glob("_imagecensus/plan-*"), *output.glob("predictions/*")):
        path.unlink()
    capfd.readouterr()
    assert main(["status", str(output)]) == 1
    assert "no run has listed its inputs to their end" in capfd.readouterr().out
    with Layout(output=str(output)).locked():
        assert main(["status", str(output), "--json"]) == 1
    assert not json.loads(capfd.readouterr().out)["planned"]


def test_who_works_on_it(output, capfd):
    capfd.readouterr()
    with Layout(output=str(output)).locked():
        assert main(["status", str(output)]) == 0
    assert "holds the lock" in capfd.readouterr().out


@pytest.mark.parametrize("signs", [True, False])
def test_a_job_whose_runner_does_not_answer(output, capfd, signs):
    """Its workers' signs of life tell; without any, nobody knows."""
    layout = Layout(output=str(output))
    place = {"url": "http://127.0.0.1:9"}
    job = RemoteJob(runner="FlinkRunner", name="census", place=place, run_id="r", began=0.0)
    write_job(layout, job)
    assert read_job(layout) == job
    if signs:
        (output / "_imagecensus" / "working.json").write_text("{}")
    capfd.readouterr()
    assert main(["status", str(output)]) == 0
    kind = "running " if signs else "unknown "
    assert f"{kind}   FlinkRunner job census at http://127.0.0.1:9" in capfd.readouterr().out
    assert main(["compact", str(output)]) == (2 if signs else 0)


def test_no_output(tmp_path, capfd):
    assert main(["status", str(tmp_path)]) == 2
    assert "no output of classify is there" in capfd.readouterr().err
