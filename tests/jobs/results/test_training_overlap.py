"""Training images among the evaluated ones are found, on disk and in archives, and taken out."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from images import write_class_folders
from tables import row, write_table

from imagecensus.jobs.evaluate import evaluate, summarize
from imagecensus.jobs.results import training_overlap
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.contract import EXTRA
from imagecensus.model_export.trained_images import (
    collect_trained_images,
    hash_content,
    salted,
    write_trained_images,
)

SALT = b"s"


def write_model(folder, train, val=(), digest="d1"):
    def columns(paths):
        files = [path.read_bytes() for path in paths]
        hashes = np.array([salted(hash_content(file), SALT) for file in files], np.uint64)
        return hashes, np.array([len(file) for file in files], np.int64)

    write_trained_images(str(folder), collect_trained_images(SALT, columns(train), columns(val)))
    (folder / EXTRA / "contract.json").write_text(json.dumps({"digest": digest}))
    return str(folder)


@pytest.fixture
def judged(tmp_path):
    """10 images of two classes, of which the model knows 4 (all right) from training, 2 from
    validation; of the other 4 it has 1 right."""
    write_class_folders(tmp_path / "p", {"disc": 5, "square": 5}, size=32)
    paths = sorted((tmp_path / "p").glob("*/*.jpg"))
    known = paths[:3] + paths[5:8]
    wrong = [paths[3], paths[4], paths[8]]
    rows = [
        row(
            str(path),
            [("disc" if (path.parent.name == "disc") != (path in wrong) else "square", 0.9)],
            bytes=path.stat().st_size,
        )
        for path in paths
    ]
    output = write_table(tmp_path / "out", rows)
    model = write_model(tmp_path / "m", known[:4], known[4:])
    (tmp_path / "out" / "run_report.json").write_text(
        json.dumps({"model": {"location": model, "digest": "d1"}})
    )
    return tmp_path, output, known


def test_training_images_are_counted_and_taken_out(judged):
    _folder, output, known = judged
    found = evaluate(output, "parent")
    overlap = found["training_overlap"]
    assert found["accuracy"]["value"] == pytest.approx(0.7)
    assert (overlap["train"], overlap["val"], overlap["unreadable"]) == (4, 2, 0)
    assert overlap["accuracy_without"] == pytest.approx(1 / 4)
    assert overlap["examples"] == [str(path) for path in known[:5]]
    assert (
        "training     6 of 10 images the model knows from its training (2 of them as validation"
        " images); without them: accuracy 0.2500" in summarize(found)
    )


def test_what_cannot_be_compared_is_said(judged):
    folder, output, known = judged
    known[0].unlink()
    found = evaluate(output, "parent")
    assert found["training_overlap"]["unreadable"] == 1
    assert "1 could not be read again" in summarize(found)
    shutil.move(folder / "m", folder / "elsewhere")
    found = evaluate(output, "parent")
    assert not found["training_overlap"]["known"]
    assert "no longer at" in summarize(found) and "--model" in summarize(found)
    found = evaluate(output, "parent", model=str(folder / "elsewhere"))
    assert found["training_overlap"]["train"] == 3
    other = write_model(folder / "other", known[1:], digest="d2")
    with pytest.raises(UserError, match="another model than the one"):
        evaluate(output, "parent", model=other)
    with pytest.raises(UserError, match="no model folder"):
        evaluate(output, "parent", model=str(folder / "nowhere"))


def test_a_model_that_does_not_know_its_images_says_nothing(judged):
    folder, output, _ = judged
    (folder / "m" / EXTRA / "trained_images.npz").unlink()
    found = evaluate(output, "parent")
    assert found["training_overlap"]["known"] is False
    assert "training" not in summarize(found)


def test_of_very_many_candidates_a_sample_is_read(judged, monkeypatch):
    _, output, _ = judged
    monkeypatch.setattr(training_overlap, "MOST_READ", 3)
    overlap = evaluate(output, "parent")["training_overlap"]
    assert overlap["compared"] == 3 and overlap["same_size"] >= 6
    assert overlap["train"] + overlap["val"] <= 3


def test_the_hash_in_the_table_is_enough(judged):
    folder, _output, _known = judged
    rows = [
        row(str(path), [(path.parent.name, 0.9)], bytes=path.stat().st_size,
            xxh128=hash_content(path.read_bytes()))
        for path in sorted((folder / "p").glob("*/*.jpg"))
    ]  # fmt: skip
    hashed = write_table(folder / "hashed", rows, passthrough=[pa.field("xxh128", pa.string())])
    shutil.copy(folder / "out" / "run_report.json", folder / "hashed")
    shutil.rmtree(folder / "p")
    overlap = evaluate(hashed, "parent")["training_overlap"]
    assert (overlap["train"], overlap["val"], overlap["unreadable"]) == (4, 2, 0)
    assert overlap["accuracy_without"] == 1.0
