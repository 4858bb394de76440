"""Bringing a classifier that OpenVINO reads: ONNX, TensorFlow Lite, SavedModel."""

import subprocess
import sys

import keras
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from networks import SIDES, answers_of_onnx, keras_network, write_onnx, write_tflite
from PIL import Image
from samples import photo

from imagecensus.jobs.cli import main
from imagecensus.model_export.contract import read_contract, read_golden
from imagecensus.model_export.default_model import make_golden_images
from imagecensus.model_export.preprocess import PreprocessSpec


def run(capsys, *words):
    code = main(["export", *map(str, words)])
    out, error = capsys.readouterr()
    return code, out, error


def softmax(answers):
    answers = np.exp(answers - answers.max(1, keepdims=True))
    return answers / answers.sum(1, keepdims=True)


def by_class(golden):
    return np.take_along_axis(golden.scores, np.argsort(golden.class_ids, 1), 1)


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("a\nb\nc\n")
    return path


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"batch": 1},
        {"batch": 4, "ending": "Softmax"},
        {"flatten_names_one": True},
        {"channels_first": False},
        {"channels": 1},
        {"ending": "LogSoftmax"},
    ],
)
def test_an_onnx_file_becomes_a_model_that_classifies_as_it_does(tmp_path, capsys, how):
    path, folder = tmp_path / "net.onnx", tmp_path / "m"
    write_onnx(path, labels=["a", "b", "c"], **how)
    flags = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    code, out, error = run(capsys, path, "--output", folder, "--input-range", "0..1", *flags)
    assert code == 0, error
    assert ("a softmax was added" in out) == (how.get("ending") != "Softmax")
    contract, golden = read_contract(str(folder)), read_golden(str(folder))
    assert (contract.name, contract.labels, contract.embedding_size) == ("net", ("a", "b", "c"), 7)

    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

    def expected(pixels):
        pixels = (pixels.astype(np.float32) / 255 - mean) / std
        pixels = pixels[..., : how.get("channels", 3)]
        if how.get("channels_first", True):
            pixels = pixels.transpose(0, 3, 1, 2)
        if how.get("batch") == 4:
            pixels = np.repeat(pixels, 4, 0)
            told = [
                answers_of_onnx_batch(path, pixels[i : i + 4])[:1] for i in range(0, len(pixels), 4)
            ]
            return np.concatenate(told)
        told = answers_of_onnx(path, pixels)
        return softmax(told)

    assert np.allclose(by_class(golden), expected(golden.images), atol=1e-5)

    archive = tmp_path / "archive"
    archive.mkdir()
    drawn = [np.asarray(photo(seed, SIDES[::-1])) for seed in range(5)]
    for seed, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(archive / f"{seed}.png")
    words = ["classify", str(archive), "--model", str(folder), "--output", str(tmp_path / "out")]
    assert main([*words, "--embeddings", "--no-report"]) == 0
    table = pq.read_table(tmp_path / "out" / "predictions").sort_by("uri").to_pylist()
    if how.get("channels", 3) == 3:
        wanted = expected(np.stack(drawn))
        assert [row["label"] for row in table] == [contract.labels[i] for i in wanted.argmax(1)]
        assert np.allclose([row["score"] for row in table], wanted.max(1), atol=1e-5)
    assert {len(row["embedding"]) for row in table} == {7}


def answers_of_onnx_batch(path, pixels):
    import onnx
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(onnx.load(path)).run(None, {"x": pixels})[0]


@pytest.mark.parametrize("kind", ["saved_model", "tflite"])
def test_files_of_tensorflow_become_models(tmp_path, capsys, labels, kind):
    model, path = keras_network(), tmp_path / f"net.{kind}"
    if kind == "tflite":
        write_tflite(path, model, ["a", "b", "c"])
        words = [path]
    else:
        model.export(path, verbose=False)
        words = [path, "--labels", labels]
    words += ["--output", tmp_path / "m", "--input-range", "0..255"]
    code, _out, error = run(capsys, *words)
    assert code == 0, error
    golden = read_golden(str(tmp_path / "m"))
    own = np.asarray(model(golden.images.astype(np.float32)))
    assert np.allclose(by_class(golden), own, atol=1e-5)
    assert read_contract(str(tmp_path / "m")).embedding_size == 7
    words[-1] = "-1..1"
    code, _out, error = run(capsys, *words)
    if kind == "saved_model":  # TensorFlow Lite's converter hides it in the first weights
        assert code == 2 and "scales pixels itself" in error


def test_an_output_of_one_sigmoid_is_two_classes(tmp_path, capsys):
    write_onnx(tmp_path / "b.onnx", classes=1, ending="Sigmoid", labels=["cat", "dog"])
    words = [tmp_path / "b.onnx", "--output", tmp_path / "m", "--input-range", "0..1"]
    code, _out, error = run(capsys, *words)
    assert code == 0, error
    golden = read_golden(str(tmp_path / "m"))
    pixels = (golden.images / np.float32(255)).transpose(0, 3, 1, 2)
    p = answers_of_onnx(tmp_path / "b.onnx", pixels)[:, 0]
    assert np.allclose(by_class(golden), np.stack([1 - p, p], 1), atol=1e-5)


def test_what_a_network_contradicts_is_refused_before_the_export(tmp_path, capsys, labels):
    pixels = make_golden_images(PreprocessSpec(height=SIDES[0], width=SIDES[1])) / 255
    write_onnx(tmp_path / "plain.onnx")
    write_onnx(tmp_path / "scales.onnx", scale=1 / 255)
    write_onnx(tmp_path / "norm.onnx", saw=pixels)
    write_onnx(tmp_path / "four.onnx", classes=4)
    (tmp_path / "bad.onnx").write_text("x")
    (tmp_path / "folder").mkdir()
    rest = ["--labels", labels, "--output", tmp_path / "m", "--input-range"]
    for name, more, message in (
        ("scales.onnx", ["0..1"], "say --input-range 0..255"),
        ("norm.onnx", ["0..255"], "its batch norm saw in training; 0..1"),
        ("four.onnx", ["0..1"], "3 labels, but"),
        ("bad.onnx", ["0..1"], "bad.onnx: OpenVINO cannot read it"),
        ("folder", ["0..1"], "is a folder without saved_model.pb"),
        ("plain.onnx", ["0..1", "--image-size", "32"], "leave the flag out"),
        ("plain.onnx", ["0..1", "--probabilities"], "--probabilities"),
    ):
        code, _, error = run(capsys, tmp_path / name, *rest, *more)
        assert code == 2 and message in error, error
    assert not (tmp_path / "m").exists()
    code, _, error = run(capsys, tmp_path / "plain.onnx", *rest[2:], "0..1")
    assert code == 2 and "carries no labels; name a file of them with --labels" in error
    assert run(capsys, tmp_path / "norm.onnx", *rest, "0..1")[0] == 0


def test_a_batch_norm_that_became_arithmetic_tells_the_range(tmp_path, capsys, labels):
    images = keras.Input((*SIDES, 3))
    x = keras.layers.BatchNormalization(momentum=0.0)(keras.layers.Conv2D(8, 3)(images))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(images, keras.layers.Dense(3, "softmax")(x))
    pixels = make_golden_images(PreprocessSpec(height=SIDES[0], width=SIDES[1]))
    model(pixels / np.float32(127.5) - 1, training=True)
    model.export(tmp_path / "net", verbose=False)
    words = [tmp_path / "net", "--labels", labels, "--output", tmp_path / "m", "--input-range"]
    code, _out, error = run(capsys, *words, "0..255")
    assert code == 2 and "that its batch norm saw in training" in error and "-1..1" in error
    assert run(capsys, *words, "-1..1")[0] == 0


def test_it_needs_no_tensorflow(tmp_path):
    write_onnx(tmp_path / "net.onnx", labels=["a", "b", "c"])
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "from imagecensus.jobs.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["export", tmp_path / "net.onnx", "--output", tmp_path / "m", "--input-range", "0..1"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "golden images" in done.stdout


def test_other_engines_refuse_such_a_model(tmp_path, capsys, labels):
    write_onnx(tmp_path / "net.onnx")
    words = ["--labels", labels, "--output", tmp_path / "m", "--input-range", "0..1"]
    assert run(capsys, tmp_path / "net.onnx", *words)[0] == 0
    photo(1).save(tmp_path / "1.png")
    words = ["predict", str(tmp_path / "1.png"), "--model", str(tmp_path / "m")]
    assert main(words) == 0
    assert main([*words, "--engine", "tensorflow"]) == 2
    assert "use --engine=openvino" in capsys.readouterr().err


def test_why_an_onnx_file_cannot_be_read_is_said(tmp_path, capsys, labels):
    words = ["--labels", labels, "--input-range", "0..1", "--output", tmp_path / "m"]
    write_onnx(tmp_path / "whole.onnx")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "whole.onnx").read_bytes()[:200])
    code, _, error = run(capsys, tmp_path / "cut.onnx", *words)
    assert code == 2 and "cut short or damaged" in error and "frontends" not in error
    onnx.save(
        onnx.load(tmp_path / "whole.onnx"), tmp_path / "outside.onnx",
        save_as_external_data=True, location="weights.bin", size_threshold=0,
    )  # fmt: skip
    (tmp_path / "weights.bin").unlink()
    code, _, error = run(capsys, tmp_path / "outside.onnx", *words)
    assert code == 2 and "its weights lie in weights.bin, which is not beside it" in error


def test_scores_are_told_from_features_of_as_many_numbers(tmp_path, capsys, labels):
    write_onnx(tmp_path / "net.onnx", ending="Softmax")
    model = onnx.load(tmp_path / "net.onnx")
    (scores,) = model.graph.output
    before = next(node for node in model.graph.node if scores.name in node.output).input[0]
    model.graph.output.insert(0, onnx.helper.make_tensor_value_info(before, 1, ["N", 3]))
    onnx.save(model, tmp_path / "both.onnx")
    words = ["--labels", labels, "--input-range", "0..1", "--output", tmp_path / "m"]
    assert run(capsys, tmp_path / "both.onnx", *words)[0] == 0
    contract, golden = read_contract(str(tmp_path / "m")), read_golden(str(tmp_path / "m"))
    wanted = answers_of_onnx(tmp_path / "net.onnx", _taken(golden.images, contract))
    assert np.allclose(np.sort(wanted)[:, ::-1], golden.scores, atol=1e-5)


def _taken(images, contract):
    return contract.preprocess.normalize(images).transpose(0, 3, 1, 2)
