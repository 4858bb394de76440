"""`imagecensus compact` over a real table; and tables of many parts read in bounded memory."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from samples import make_photos, read_rows
from tables import row, write_table

from imagecensus.jobs.cli import main
from imagecensus.jobs.results import open_table as opening
from imagecensus.jobs.results.open_table import open_table
from imagecensus.transforms.dataset.layout import Layout


def classify(archive, output, model, *flags) -> int:
    words = ["classify", str(archive), f"--model={model}", f"--output={output}", *flags]
    return main([*words, "--unit-images=8", "--no-report"])


def totals_of(output) -> dict:
    return json.loads((output / "run_report.json").read_text())["totals"]


def test_a_table_is_compacted_and_goes_on(tiny_model, tmp_path, capfd):
    archive, output = tmp_path / "photos", tmp_path / "out"
    make_photos(archive, 40)
    (archive / "bad.jpg").write_bytes(b"no")
    assert classify(archive, output, tiny_model) == 0
    before = read_rows(output)
    assert main(["compact", str(output)]) == 0
    assert "41 rows, 6 parts merged into 1" in capfd.readouterr().out
    assert [p.name.partition("-")[0] for p in (output / "predictions").iterdir()] == ["part"]
    assert read_rows(output).equals(before)
    assert main(["compact", f"{output}/"]) == 0
    assert "nothing to merge" in capfd.readouterr().out
    assert classify(archive, output, tiny_model) == 0
    assert "nothing new to classify" in capfd.readouterr().out
    make_photos(tmp_path / "more", 3)
    (tmp_path / "more" / "00001.jpg").replace(archive / "bad.jpg")
    (archive / "00002.jpg").unlink()
    assert classify(archive, output, tiny_model, "--drop-gone") == 0
    totals = totals_of(output)
    assert (totals["changed"], totals["gone"], totals["rows"], totals["failed"]) == (1, 1, 40, 0)
    assert main(["report", str(output)]) == 0


def test_what_cannot_be_compacted(tmp_path, capfd):
    assert main(["compact", str(tmp_path)]) == 2
    assert "no output of classify is there" in capfd.readouterr().err
    layout = Layout(output=str(tmp_path))
    layout.make()
    (tmp_path / "_imagecensus" / "dataset.json").write_text('{"fingerprint": "f"}')
    with layout.locked():
        assert main(["compact", str(tmp_path)]) == 2
    assert "another run is writing" in capfd.readouterr().err


@pytest.mark.parametrize("at_once", [1000, 4, 1])
def test_many_parts_are_read_some_at_a_time(tmp_path, monkeypatch, at_once):
    """Later parts may have columns that earlier ones lack: those of a list that has grown."""
    monkeypatch.setattr(opening, "PARTS_AT_ONCE", at_once)
    output = write_table(tmp_path, [row(f"/a/{i}.jpg") for i in range(5)], 5)
    places = [tmp_path / "predictions" / f"part-{n:024x}.parquet" for n in range(5)]
    for number, place in enumerate(places):
        place.rename(tmp_path / "predictions" / f"part-a{number}.parquet")
    rows = [row(f"/b/{i}.jpg", camera_id=i) for i in range(5)]
    write_table(tmp_path, rows, 5, passthrough=[pa.field("camera_id", pa.int64())])
    with open_table(output) as table:
        assert table.columns[-1] == "camera_id" and len(table.columns) == 13
        [(count, known)] = table.query("SELECT count(*), sum(camera_id) FROM predictions")
        assert (count, known) == (10, 10)
    assert main(["report", output]) == 0
    assert main(["evaluate", output, "--labels", "column:camera_id"]) == 2
