"""What a table's `uri` column holds is accepted by every command that takes images."""

import csv
import io
import json
import os

import pytest
from packing import pack
from samples import photo, read_rows

from imagecensus.jobs.cli import main
from imagecensus.jobs.results.thumbnails import Images, make_thumbnails
from imagecensus.jobs.training_data.sources import read_training_data
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.training.decoded_images import ArrayCache, decode_images
from imagecensus.model_export.training.labelled_data import SplitFractions

NAMES = ["plain.png", "a b#c.png", "100%.png", "a,b;'\"c.png", "zażółć.png", b"\xff\xe9.png"]


def png(seed) -> bytes:
    buffer = io.BytesIO()
    photo(seed).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Files of awkward names, archives of each kind, a file of several pages."""
    place = tmp_path_factory.mktemp("photos")
    (place / "sub #1").mkdir()
    for seed, name in enumerate(NAMES):
        path = os.path.join(os.fsencode(place / "sub #1"), os.fsencode(name))
        with open(path, "wb") as file:
            file.write(png(seed))
    for seed, kind in enumerate(("tar", "tar.gz", "zip", "tfrecord", "parquet"), 10):
        pack(kind, [("in/a b#c.png", png(seed)), ("d.png", png(seed + 10))], place / f"p.{kind}")
    first, *others = (photo(seed) for seed in range(40, 43))
    first.save(place / "scan.tif", save_all=True, append_images=others)
    return place


@pytest.fixture(scope="module")
def table(place, tiny_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "out"
    words = ["classify", str(place), "--model", tiny_model, "--output", str(output)]
    assert main([*words, "--embeddings", "--pages=all"]) == 0
    rows = read_rows(output).to_pylist()
    assert len(rows) == len(NAMES) + 10 + 3 and {row["status"] for row in rows} == {"ok"}
    return output, rows


@pytest.fixture(scope="module")
def listed(table, tmp_path_factory):
    """A CSV of the table's uris and labels, made by anybody's tools."""
    path = tmp_path_factory.mktemp("lists") / "list.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("uri", "truth"), *((r["uri"], r["label"]) for r in table[1])])
    return path


def same(rows, expected):
    assert [row["uri"] for row in rows] == [row["uri"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert (row["status"], row["label"]) == ("ok", other["label"]), row
        assert row["score"] == pytest.approx(other["score"], abs=1e-5)


def test_classify_takes_them(table, listed, tiny_model, tmp_path):
    output = tmp_path / "again"
    words = ["classify", str(listed), "--model", tiny_model, "--output", str(output)]
    assert main(words) == 0
    same(read_rows(output).to_pylist(), table[1])


def test_predict_takes_them(table, tiny_model, capsys):
    uris = [row["uri"] for row in table[1]]
    assert main(["predict", *uris, "--model", tiny_model, "--json"]) == 0
    same([json.loads(line) for line in capsys.readouterr().out.splitlines()], table[1])


def test_similar_takes_them(table, capsys):
    output, rows = table
    for row in rows:
        assert main(["similar", str(output), row["uri"], "--top", "1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["uri"] != row["uri"]


def test_evaluate_takes_them(table, listed, capsys):
    output, rows = table
    words = ["evaluate", str(output), "--labels", str(listed), "--label-column", "truth"]
    assert main(words) == 0
    told = json.loads((output / "evaluation" / "evaluation.json").read_text())
    assert (told["matched_by"], told["evaluated"]) == ("uri", len(rows))
    assert told["accuracy"]["value"] == 1.0


def test_train_takes_them(table, listed):
    everything = SplitFractions(val=0.0, test=0.0)
    split = read_training_data(str(listed), everything, label_column="truth").splits["train"]
    cache = ArrayCache(directory="", memory_bytes=1 << 30, disk_bytes=0)
    images = decode_images(
        split, PreprocessSpec(height=32, width=32), cache, "train", max_broken_rate=0.0
    )
    assert not images.broken


def test_the_report_and_browse_take_them(table):
    output, rows = table
    made = make_thumbnails(Images(str(output)), [row["uri"] for row in rows], 64)
    assert set(made) == {row["uri"] for row in rows}
