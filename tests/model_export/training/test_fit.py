"""Replicas and resuming: the same losses on 1, 2 and 4 devices, and after a kill."""

import csv
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from images import write_class_folders

from imagecensus.jobs.cli import main
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.contract import read_contract, read_golden
from imagecensus.model_export.training.fit import class_weights, cross_entropy, global_batch

# Several devices out of one CPU, then the job as a user runs it. One process for each number:
# TensorFlow remembers a process's first group of CPU devices.
TESTS = pathlib.Path(__file__).parents[2]
REPLICAS = """
import sys
import tensorflow as tf
count, *words = sys.argv[1:]
cpu = tf.config.list_physical_devices("CPU")[0]
devices = [tf.config.LogicalDeviceConfiguration()] * int(count)
tf.config.set_logical_device_configuration(cpu, devices)
from imagecensus.jobs.cli import main
from imagecensus.model_export import verify
from samples import ProofHere
from imagecensus.model_export.training import fit
verify.subprocess = ProofHere
fit.on_device = lambda: count == "4"  # as on GPUs
sys.exit(main(words))
"""
NETWORK = [
    "--backbone", "cnn:8-pool-8-gap", "--image-size", "32", "--batch-size", "16", "--epochs", "3",
    "--dropout", "0", "--hidden", "8", "--augment", "flip,shift=0.1", "--balance-classes",
    "--label-smoothing", "0.1", "--average-weights", "0.9", "--name", "net", "--no-int8",
]  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_class_folders(folder, {"disc": 30, "stripes": 20, "square": 17}, size=32)
    return str(folder)


def history(output):
    with open(f"{output}.training/history.csv") as file:
        return list(csv.DictReader(file))


def test_the_number_of_replicas_changes_no_result(shapes, tmp_path, proof_here):
    output = str(tmp_path / "model")
    words = ["train", shapes, "--debug", *NETWORK, "--output"]
    assert main([*words, output + "1"]) == 0
    for count in ("2", "4"):
        command = [sys.executable, "-c", REPLICAS, count, *words, output + count]
        done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS)
        assert done.returncode == 0, done.stderr[-3000:]
    one = history(output + "1")
    assert len(one) == 3
    golden = read_golden(output + "1")
    for count in ("2", "4"):
        for entry, other in zip(one, history(output + count), strict=True):
            assert float(other["loss"]) == pytest.approx(float(entry["loss"]), abs=1e-5)
            assert float(other["val_loss"]) == pytest.approx(float(entry["val_loss"]), abs=1e-5)
        there = read_golden(output + count)
        assert np.array_equal(there.images, golden.images)
        assert np.allclose(there.scores, golden.scores, atol=1e-4)
        assert read_contract(output + count).training["replicas"] == int(count)


def test_a_killed_training_resumes_with_the_same_result(shapes, tmp_path, capsys, proof_here):
    words = ["train", shapes, "--name", "net", "--no-int8"]
    words += ["--backbone", "cnn:8-pool-drop0.3-16-bn-pool", "--image-size", "32"]
    words += ["--epochs", "8", "--patience", "0", "--hidden", "16", "--augment", "flip,zoom=0.2"]
    words += ["--average-weights", "0.8"]
    killed, whole = str(tmp_path / "killed"), str(tmp_path / "whole")
    with subprocess.Popen(
        [sys.executable, "-m", "imagecensus.jobs.cli", *words, "--output", killed],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        for line in process.stdout:
            if line.startswith("Epoch 4/"):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not os.path.exists(killed)
    runs = {}
    for output in (killed, whole):
        assert main([*words, "--output", output]) == 0
        runs[output] = capsys.readouterr().out
    assert "Epoch 4/" in runs[killed] and "Epoch 3/" not in runs[killed]
    for one, other in zip(history(killed), history(whole), strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-6), name
    tables = [pq.read_table(f"{output}.training/predictions.parquet") for output in (killed, whole)]
    assert tables[0].drop(["score"]).equals(tables[1].drop(["score"]))
    assert np.allclose(tables[0]["score"], tables[1]["score"], atol=1e-6)
    assert not os.path.exists(f"{killed}.training/state")


def test_batches_split_evenly_or_are_refused():
    assert global_batch(32, 1000, 4) == 32
    assert global_batch(30, 1000, 4) == 28
    assert global_batch(32, 5, 2) == 4
    with pytest.raises(UserError, match="cannot be split over 4 replicas"):
        global_batch(32, 3, 4)


def test_class_weights_average_to_one():
    labels = np.asarray([0] * 9 + [1] * 3)
    weights = class_weights(labels, 2)
    assert weights[1] == pytest.approx(3 * weights[0])
    assert weights[labels].mean() == pytest.approx(1)


def test_cross_entropy_of_certainty():
    assert cross_entropy(np.eye(3, dtype=np.float32), np.arange(3)) == pytest.approx(0, abs=1e-6)
