"""The whole train job on generated images, run as a user runs it."""

import glob
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from images import write_class_folders

from imagecensus.jobs.cli import main
from imagecensus.model_export.contract import read_contract

SMALL_CNN = ["--backbone", "cnn:8-pool-16-pool-gap", "--image-size", "32", "--epochs", "3"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_class_folders(folder, {"disc": 24, "stripes": 24, "square": 24}, size=48)
    return folder


def test_trains_evaluates_and_exports(shapes, tmp_path, capsys):
    output = tmp_path / "model"
    assert main(["train", str(shapes), "--output", str(output), *SMALL_CNN]) == 0
    assert "test" in capsys.readouterr().out
    contract = read_contract(str(output))
    assert contract.labels == ("disc", "square", "stripes")
    assert contract.metrics["test"]["examples"] == 12
    assert contract.training["spec"]["classifier"]["hidden"] == []
    work = str(output) + ".training"
    rows = pq.read_table(os.path.join(work, "predictions.parquet")).to_pandas()
    assert len(rows) == 72 and rows.uri.is_unique
    test_rows = rows[rows.split == "test"]
    accuracy = float(np.mean(test_rows.label == test_rows.predicted))
    assert accuracy == pytest.approx(contract.metrics["test"]["accuracy"])
    assert glob.glob(f"{work}/tensorboard/network/**/events.*", recursive=True)
    assert len(glob.glob(f"{work}/plots/*.png")) == 5
    with open(os.path.join(work, "run.json")) as file:
        assert json.load(file)["images"] == {"train": 54, "val": 6, "test": 12}


def test_images_larger_than_the_caches_are_streamed_to_the_same_result(
    shapes, tmp_path, capsys, proof_here
):
    rows, epochs = [], []
    for name, flags in (("kept", []), ("streamed", ["--cache-memory", "1K", "--cache-disk", "1K"])):
        output = str(tmp_path / name)
        words = ["train", str(shapes), "--output", output, *SMALL_CNN, *flags, "--no-int8"]
        assert main([*words, "--name", "m"]) == 0
        told = capsys.readouterr().out
        assert ("decoded again in each pass" in told) == (name == "streamed"), told
        table = pq.read_table(f"{output}.training/predictions.parquet").to_pandas()
        rows.append(table.sort_values("uri"))
        with open(f"{output}.training/history.csv") as file:
            epochs.append([float(line.split(",")[2]) for line in file.readlines()[1:]])
    assert rows[0].uri.tolist() == rows[1].uri.tolist()
    assert np.allclose(rows[0].score, rows[1].score, atol=1e-5)
    assert np.allclose(epochs[0], epochs[1], atol=1e-5)


def run(capsys, *words):
    code = main(["train", *map(str, words)])
    return code, capsys.readouterr().err


def test_everything_wrong_with_the_flags_is_reported_at_once(shapes, tmp_path, capsys):
    words = (shapes, "--output", tmp_path / "m")
    code, error = run(
        capsys, *words, "--epochs", "0", "--dropout", "1", "--seed", "-1", "--alpha=0"
    )
    assert code == 2
    assert "--epochs must be" in error and "--dropout must be" in error and "--seed cannot" in error
    assert "--alpha must be" in error
    for flags, message in (
        (["--epoch", "3"], "did you mean --epochs"),
        (["--hidden", "12,x"], "--hidden 12,x"),
        (["--augment", "spin"], "--augment"),
        (["--backbone", "lenet"], "one of mobilenet_v2"),
        (["--weights", "/absent.h5"], "/absent.h5: no such file"),
        (["--recipe", "cakes"], "there are flowers"),
        (["--replicas", "64", *SMALL_CNN], "--replicas 64"),
        (["--fine-tune", "2", "--hidden", "4", "--weights", "none"], "--fine-tune 2"),
    ):
        code, error = run(capsys, *words, "--quiet", *flags)
        assert code == 2 and message in error, (flags, error)
        assert "Traceback" not in error
    assert not (tmp_path / "m").exists()


def test_a_folder_that_is_no_model_is_never_replaced(shapes, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "only-copy.jpg").write_bytes(b"x")
    for flags in ([], ["--crop=best"]):
        code, error = run(capsys, shapes, "--output", tmp_path / "photos", *SMALL_CNN, *flags)
        assert code == 2 and "no model folder" in error
        assert (tmp_path / "photos" / "only-copy.jpg").exists()


def test_another_training_in_the_same_place_is_not_mixed_in(shapes, tmp_path, capsys):
    work = tmp_path / "m.training"
    (work / "state").mkdir(parents=True)
    (work / "state" / "head.npz").write_bytes(b"")
    (work / "run.json").write_text(json.dumps({"spec": {"head": {"epochs": 99}}}))
    code, error = run(capsys, shapes, "--output", tmp_path / "m", *SMALL_CNN)
    assert code == 2 and "head.epochs (99 there, 3 now)" in error and "--fresh" in error


def test_a_class_of_which_no_training_image_can_be_read_is_refused(tmp_path, capsys):
    write_class_folders(tmp_path / "data" / "train", {"disc": 30, "square": 1}, size=16)
    write_class_folders(tmp_path / "data" / "test", {"disc": 2, "square": 2}, size=16, seed=1)
    next((tmp_path / "data" / "train" / "square").iterdir()).write_bytes(b"no image")
    words = ["train", str(tmp_path / "data"), "--output", str(tmp_path / "m"), "--quiet"]
    assert main([*words, *SMALL_CNN]) == 2
    assert "none of the training images of class 'square' can be read" in capsys.readouterr().err


def test_the_batch_job_answers_as_the_trainer_did(shapes, tmp_path, capsys, proof_here):
    from tests.bench.reach import compare

    write_class_folders(tmp_path / "data" / "train", {"disc": 20, "square": 20}, size=64)
    write_class_folders(tmp_path / "data" / "test", {"disc": 9, "square": 8}, size=64, seed=1)
    model, table = str(tmp_path / "model"), str(tmp_path / "table")
    words = ["train", str(tmp_path / "data"), "--output", model, "--quiet", *SMALL_CNN]
    (tmp_path / "data" / "train" / "disc" / "broken.jpg").write_bytes(b"no image")
    # Trained in 16 bits, evaluated and exported in 32.
    assert main([*words, "--mixed-precision", "bfloat16"]) == 0
    assert "1 image could not be read: left out" in capsys.readouterr().out
    contract = read_contract(model)
    assert contract.training["left_out"] == 1
    assert contract.training["spec"]["precision"] == "mixed_bfloat16"
    assert contract.metrics["export"]["serving_default"] <= 1e-5
    assert contract.metrics["export"]["embed"] <= 1e-5
    images = str(tmp_path / "data" / "test")
    assert main(["classify", images, "--output", table, "--model", model]) == 0
    trainer, job, different = compare(model, table)
    assert (trainer, different) == (job, 0)
    assert trainer == pytest.approx(contract.metrics["test"]["accuracy"])
