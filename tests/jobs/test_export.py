"""Bringing a Keras classifier from elsewhere."""

import json

import keras
import numpy as np
import pytest

from imagecensus.jobs.cli import main
from imagecensus.model_export.contract import read_contract, read_golden


def save(path, channels=3, softmax=True, classes=3):
    keras.utils.set_random_seed(4)
    layers = [
        keras.Input((20, 24, channels)),
        keras.layers.Conv2D(5, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(7, "relu"),
        keras.layers.Dense(classes, "softmax" if softmax else None),
    ]
    model = keras.Sequential(layers)
    model.save(path)
    return model


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"0": "a", "1": "b", "2": "c"}))
    return str(path)


def run(capsys, *words):
    code = main(["export", *map(str, words)])
    out, error = capsys.readouterr()
    return code, out, error


@pytest.mark.parametrize("channels, softmax", [(3, True), (1, False)])
def test_a_keras_file_becomes_a_model(tmp_path, labels, capsys, channels, softmax):
    model = save(tmp_path / "net.keras", channels, softmax)
    words = [tmp_path / "net.keras", "--labels", labels, "--output", tmp_path / "m"]
    words += ["--input-range", "0..1"] + ([] if softmax else ["--logits"])
    code, out, error = run(capsys, *words)
    assert code == 0, error
    contract, golden = read_contract(str(tmp_path / "m")), read_golden(str(tmp_path / "m"))
    assert (contract.name, contract.labels, contract.embedding_size) == ("net", ("a", "b", "c"), 7)
    assert contract.preprocess.color == ("rgb" if channels == 3 else "grey")
    answers = np.asarray(model(golden.images[..., :channels] / np.float32(255)))
    if not softmax:
        answers = np.exp(answers) / np.exp(answers).sum(1, keepdims=True)
    assert np.allclose(np.sort(answers)[:, ::-1], golden.scores, atol=1e-5)


def test_what_does_not_fit_is_refused(tmp_path, labels, capsys):
    save(tmp_path / "four.keras", classes=4)
    (tmp_path / "bad.keras").write_text("x")
    (tmp_path / "gap.json").write_text('{"0": "a", "2": "b"}')
    ranged = ["--input-range", "0..1", "--output", tmp_path / "m"]
    for words, message in (
        (
            [tmp_path / "four.keras", "--labels", labels],
            f"{labels}: 3 labels, but {tmp_path / 'four.keras'} has 4 outputs",
        ),
        ([tmp_path / "bad.keras", "--labels", labels], "bad.keras: Keras cannot load it"),
        ([tmp_path / "none.keras", "--labels", labels], "none.keras: no such file"),
        ([tmp_path / "four.keras", "--labels", tmp_path / "gap.json"], "class id '1'"),
    ):
        code, _, error = run(capsys, *words, *ranged)
        assert code == 2 and message in error, error
    assert not (tmp_path / "m").exists()
