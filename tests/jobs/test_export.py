"""Bringing a Keras classifier from elsewhere."""

import functools
import json

import keras
import numpy as np
import pytest
from networks import answers_of_onnx, write_onnx

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
    code, _out, error = run(capsys, *words)
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


def binary(path, activation):
    keras.utils.set_random_seed(4)
    last = keras.layers.Dense(1, activation, kernel_initializer=keras.initializers.Ones())
    layers = [keras.Input((20, 24, 3)), keras.layers.GlobalAveragePooling2D(), last]
    model = keras.Sequential(layers)
    model.save(path)
    return model


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_output_is_two_classes(tmp_path, capsys, activation):
    model = binary(tmp_path / "b.keras", activation)
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    words = [tmp_path / "b.keras", "--labels", tmp_path / "two.txt", "--output", tmp_path / "m"]
    words += ["--input-range", "-1..1"] + ([] if activation else ["--logits"])
    code, _, error = run(capsys, *words)
    assert code == 0, error
    golden = read_golden(str(tmp_path / "m"))
    p = np.asarray(model(golden.images / np.float32(127.5) - 1))[:, 0]
    p = p if activation else 1 / (1 + np.exp(-p))
    by_class = np.take_along_axis(golden.scores, np.argsort(golden.class_ids, 1), 1)
    assert np.allclose(by_class, np.stack([1 - p, p], 1), atol=1e-5)


def test_a_softmax_that_is_missing_is_added_and_said(tmp_path, labels, capsys):
    save(tmp_path / "net.keras", softmax=False)
    words = [tmp_path / "net.keras", "--labels", labels, "--input-range", "0..1", "--output"]
    code, out, error = run(capsys, *words, tmp_path / "m")
    assert code == 0 and "without a softmax or sigmoid: a softmax was added" in out, error
    assert run(capsys, *words, tmp_path / "n", "--logits")[0] == 0
    scores = [read_golden(str(tmp_path / name)).scores for name in "mn"]
    assert (scores[0] == scores[1]).all() and np.allclose(scores[0].sum(1), 1, atol=1e-5)


def test_what_the_last_layer_contradicts_is_refused(tmp_path, labels, capsys):
    save(tmp_path / "softmax.keras")
    binary(tmp_path / "b.keras", "sigmoid")
    (tmp_path / "one.txt").write_text("dog\n")
    (tmp_path / "folder").mkdir()
    rest = ["--input-range", "0..1", "--output", tmp_path / "m"]
    for words, message in (
        ([tmp_path / "softmax.keras", "--labels", labels, "--logits"], "a softmax already"),
        ([tmp_path / "b.keras", "--labels", tmp_path / "one.txt"], "name both classes"),
        ([tmp_path / "folder", "--labels", labels], "is a folder without saved_model.pb"),
    ):
        code, _, error = run(capsys, *words, *rest)
        assert code == 2 and message in error, error


def test_a_file_of_keras_2_is_read(tmp_path, labels, capsys):
    import h5py

    images = keras.Input((20, 24, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.DepthwiseConv2D(3)(images))
    keras.Model(images, keras.layers.Dense(3, "softmax")(x)).save(tmp_path / "k.h5")
    with h5py.File(tmp_path / "k.h5", "r+") as file:
        tree = json.loads(file.attrs["model_config"])
        for layer in tree["config"]["layers"]:
            if layer["class_name"] == "DepthwiseConv2D":
                layer["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(tree)
    words = [tmp_path / "k.h5", "--labels", labels, "--output", tmp_path / "m"]
    code, _, error = run(capsys, *words, "--input-range", "0..1")
    assert code == 0, error
    assert read_contract(str(tmp_path / "m")).embedding_size == 3


def test_means_and_deviations_of_each_channel(tmp_path, labels, capsys):
    model = save(tmp_path / "net.keras")
    words = [tmp_path / "net.keras", "--labels", labels, "--output", tmp_path / "m"]
    words += ["--input-range", "0..1"]
    flags = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    code, _out, error = run(capsys, *words, *flags)
    assert code == 0, error
    golden = read_golden(str(tmp_path / "m"))
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    answers = np.asarray(model((golden.images / np.float32(255) - mean) / std))
    assert np.allclose(np.sort(answers)[:, ::-1], golden.scores, atol=1e-5)
    for wrong in ("1,2", "x", "0.5,0.5,nan"):
        code, _out, error = run(capsys, *words, "--mean", wrong)
        assert code == 2 and "--mean" in error and "0.485,0.456,0.406" in error
    code, _out, error = run(capsys, *words, "--std", "0")
    assert code == 2 and "--std 0: expected a number" in error and "above 0" in error


def test_a_range_that_the_network_contradicts_is_refused(tmp_path, labels, capsys):
    layers = [keras.Input((20, 24, 3)), keras.layers.Rescaling(1 / 255, name="scale")]
    layers += [keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    keras.Sequential(layers).save(tmp_path / "net.keras")
    words = [tmp_path / "net.keras", "--labels", labels, "--output", tmp_path / "m"]
    code, _out, error = run(capsys, *words, "--input-range", "0..1")
    assert code == 2 and "layer 'scale'" in error and "say --input-range 0..255" in error
    assert run(capsys, *words, "--input-range", "0..255")[0] == 0


def test_probabilities_behind_another_layer(tmp_path, labels, capsys):
    inputs = keras.Input((20, 24, 3))
    shares = keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(inputs))
    keras.Model(inputs, keras.layers.Rescaling(1.0)(shares)).save(tmp_path / "net.keras")
    words = [tmp_path / "net.keras", "--labels", labels, "--output", tmp_path / "m"]
    words += ["--input-range", "0..1"]
    for more in ([], ["--probabilities"]):
        code, out, error = run(capsys, *words, *more)
        assert code == 0 and "was added" not in out, error
    save(tmp_path / "logits.keras", softmax=False)
    words[0] = tmp_path / "logits.keras"
    code, _out, error = run(capsys, *words, "--probabilities")
    assert code == 2 and "--probabilities" in error and "leave the flag out" in error


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "frozen.pb", "model.json"])
def test_files_of_other_kinds_are_told_from_networks(tmp_path, labels, capsys, name):
    (tmp_path / name).write_bytes(b"PK\3\4 weights")
    words = ["--labels", labels, "--input-range", "0..1", "--output", tmp_path / "m"]
    code, _, error = run(capsys, tmp_path / name, *words)
    assert code == 2 and "torch.onnx.export" in error and "a Keras file" in error
    for other in ("net.onnx", "net.keras", "net.h5"):
        (tmp_path / other).write_text("version https://git-lfs.github.com/spec/v1\n")
        code, _, error = run(capsys, tmp_path / other, *words)
        assert code == 2 and "git lfs pull" in error


@pytest.mark.parametrize("kind", ["keras", "onnx"])
def test_blue_comes_first_where_the_network_takes_it_so(tmp_path, labels, capsys, kind):
    path = tmp_path / f"net.{kind}"
    if kind == "onnx":
        write_onnx(path, ending="Softmax", scale=0.01)
        answers = functools.partial(answers_of_onnx, path)
    else:
        inputs = keras.Input((20, 24, 3))
        features = keras.layers.Conv2D(5, 3, name="resnet50")(inputs * 0.01)
        features = keras.layers.GlobalAveragePooling2D()(features)
        answers = keras.Model(inputs, keras.layers.Dense(3, "softmax")(features))
        answers.save(path)
    words = ["--labels", labels, "--input-range", "0..255", "--mean", "120,110,100"]
    code, out, _ = run(capsys, path, *words, "--output", tmp_path / "red")
    assert code == 0 and ("--bgr" in out) == (kind == "keras")
    code, out, error = run(capsys, path, *words, "--output", tmp_path / "m", "--bgr")
    assert (code, "--bgr" in out) == (0, False), error
    golden = read_golden(str(tmp_path / "m"))
    taken = (golden.images.astype(np.float32) - np.float32([120, 110, 100]))[..., ::-1]
    expected = np.asarray(answers(taken.transpose(0, 3, 1, 2) if kind == "onnx" else taken))
    assert np.allclose(np.sort(expected)[:, ::-1], golden.scores, atol=1e-5)


def test_of_a_cut_file_only_the_error_is_said(tmp_path, labels, capfd):
    write_onnx(tmp_path / "net.onnx")
    data = (tmp_path / "net.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    words = ["--input-range", "0..1", "--output", tmp_path / "m"]
    for more in (["--labels", labels], []):
        code, _, error = run(capfd, tmp_path / "cut.onnx", *words, *more)
        assert code == 2 and "cut short or damaged" in error and len(error.splitlines()) == 1


def test_a_softmax_of_one_output_and_a_lambda_layer_are_refused(tmp_path, capsys):
    (tmp_path / "two.txt").write_text("a\nb\n")
    words = ["--labels", tmp_path / "two.txt", "--input-range", "0..1", "--output", tmp_path / "m"]
    save(tmp_path / "one.keras", classes=1)
    code, _, error = run(capsys, tmp_path / "one.keras", *words)
    assert code == 2 and "is 1 for every image; train it with a sigmoid" in error
    layers = [keras.Input((20, 24, 3)), keras.layers.Lambda(lambda x: x / 255)]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, "softmax")]
    for name in ("own.keras", "own.h5"):
        keras.Sequential(layers).save(tmp_path / name)
        code, _, error = run(capsys, tmp_path / name, *words)
        assert code == 2 and "has a Lambda layer" in error and "safe_mode" not in error
