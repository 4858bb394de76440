"""`train --crop best`: the crop that does better on validation is kept."""

import os

from images import write_class_folders

from imagecensus.jobs.cli import main
from imagecensus.model_export.contract import read_contract


def test_the_better_crop_is_kept_and_said(tmp_path, capsys, proof_here):
    folder, output = tmp_path / "shapes", tmp_path / "model"
    write_class_folders(folder, {"disc": 16, "stripes": 16}, size=48)
    words = ["train", str(folder), "--output", str(output), "--no-int8", "--crop", "best"]
    small = ["--backbone", "cnn:8-pool-gap", "--image-size", "32", "--epochs", "2", "--quiet"]
    assert main([*words, *small, "--name", "m"]) == 0
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("accuracy on validation"))
    kept = line.rpartition("kept: ")[2]
    contract = read_contract(str(output))
    assert contract.preprocess.crop == kept
    figures = dict(part.split() for part in line.partition(": ")[2].partition(";")[0].split(", "))
    assert float(figures[kept]) == max(map(float, figures.values()))
    assert f"{contract.metrics['val']['accuracy']:.4f}" == figures[kept]
    assert sorted(os.listdir(tmp_path)) == ["model", "model.training", "shapes"]
