"""The whole train job on generated pictures, run as a person runs it."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from model_export.contract import read_contract
from tests.pictures import write_class_folders

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
    with open(os.path.join(work, "run.json")) as file:
        assert json.load(file)["pictures"] == {"train": 54, "val": 6, "test": 12}
