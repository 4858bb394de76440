"""int8 as a property of a model: made, measured, taken by `classify`, never mixed."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from samples import SHARED_DATA, make_photos, read_rows

from imagecensus.jobs.cli import main
from imagecensus.model_export.contract import ModelError, read_contract
from imagecensus.model_export.precision import int8_graph
from imagecensus.transforms.engines import precision

pytest.importorskip("nncf")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, 260)
    return str(folder)


@pytest.fixture(scope="module")
def model8(tmp_path_factory, tiny_model, photos):
    output = str(tmp_path_factory.mktemp("int8") / "m")
    assert main(["quantize", tiny_model, "--images", photos, "--output", output]) == 0
    return output


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGECENSUS_CACHE", str(tmp_path / "cache"))
    # These networks are too small to gain from int8: what decides is tried by itself below.
    monkeypatch.setattr(precision, "MIN_SPEEDUP", 0)


def classify(photos, output, *words):
    return main(["classify", photos, "--output", str(output), "--no-report", *words])


def dataset(output):
    return json.loads((output / "_imagecensus" / "dataset.json").read_text())["identity"]


def test_the_int8_version_is_measured_and_covered_by_the_digest(tiny_model, model8):
    before, after = read_contract(tiny_model), read_contract(model8)
    found = after.metrics["int8"]
    assert before.digest != after.digest and before.labels == after.labels
    assert found["images"] == 130 and found["calibration_images"] == 130
    low, high = found["expected_loss_interval"]
    assert 0 <= low <= found["expected_loss"] <= high
    assert found["speedup"] > 0 and found["embedding_cosine"] > 0.99
    graph = pathlib.Path(int8_graph(model8)).with_suffix(".bin")
    content = graph.read_bytes()
    try:
        graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ModelError, match="changed since the export"):
            read_contract(model8)
    finally:
        graph.write_bytes(content)


def test_auto_takes_int8_says_so_and_keeps_to_it(model8, photos, tmp_path, capsys):
    output = tmp_path / "o"
    assert classify(photos, output, "--model", model8, "--embeddings") == 0
    said = capsys.readouterr().out
    assert "openvino int8)" in said and "precision  int8: expected loss" in said
    assert classify(photos, output, "--model", model8, "--embeddings") == 0
    assert "as the dataset was begun" in capsys.readouterr().out
    report = json.loads((output / "run_report.json").read_text())
    assert report["precision"] == "int8"
    rows = {row["uri"]: row for row in read_rows(output).to_pylist()}
    assert len(rows) == 260
    assert (
        classify(photos, tmp_path / "f", "--model", model8, "--precision=f32", "--embeddings") == 0
    )
    whole = {row["uri"]: row for row in read_rows(tmp_path / "f").to_pylist()}
    differences = [abs(rows[uri]["score"] - row["score"]) for uri, row in whole.items()]
    assert max(differences) > 0 and np.median(differences) < 0.05  # another graph, the same network


def test_precisions_are_never_mixed(model8, photos, tmp_path, capsys):
    output = tmp_path / "o"
    assert classify(photos, output, "--model", model8, "--precision=f32", "--limit=20") == 0
    assert classify(photos, output, "--model", model8, "--limit=40") == 0  # auto goes on in f32
    assert len(read_rows(output)) == 40
    assert classify(photos, output, "--model", model8, "--precision=int8") == 2
    assert "never mixed" in capsys.readouterr().err


def test_a_processor_that_gains_nothing_keeps_float32(
    model8, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(precision, "MIN_SPEEDUP", 1000)
    assert classify(photos, tmp_path / "o", "--model", model8, "--limit=9") == 0
    assert "precision  f32: int8 is" in capsys.readouterr().out
    monkeypatch.setattr(precision, "race", None)  # once is enough: the next run asks the cache
    assert classify(photos, tmp_path / "p", "--model", model8, "--limit=9") == 0
    assert "no gain" in capsys.readouterr().out


def test_what_is_not_there_is_refused(tiny_model, photos, tmp_path, capsys):
    assert classify(photos, tmp_path / "o", "--model", tiny_model, "--precision=int8") == 2
    assert "carries no int8 graph" in capsys.readouterr().err
    words = ["--images", photos, "--output", str(tmp_path / "m")]
    assert main(["quantize", tiny_model, *words, "--labels", "column:nothing"]) == 2
    few = tmp_path / "few"
    few.mkdir()
    make_photos(few, 5)
    assert main(["quantize", tiny_model, "--images", str(few), *words[2:]]) == 2
    assert "too few" in capsys.readouterr().err
    assert not (tmp_path / "m").exists() and not list(tmp_path.glob(".quantizing*"))


def test_calibrated_on_the_archive_and_resumed(tiny_model, photos, tmp_path, capsys):
    output = tmp_path / "o"
    words = ["--model", tiny_model, "--calibrate-on-archive"]
    assert classify(photos, output, *words, "--limit=100") == 0
    assert dataset(output)["precision"] == "int8"
    assert classify(photos, output, *words) == 0
    assert "calibrating" in capsys.readouterr().err and len(read_rows(output)) == 260
    kept = os.listdir(tmp_path / "cache" / "models")
    assert kept == [f"int8-{dataset(output)['model'][:16]}"]


def test_labels_of_folders_give_accuracies(tiny_model, tmp_path, capsys):
    for name in ("red", "unknown"):
        (tmp_path / "in" / name).mkdir(parents=True)
        make_photos(tmp_path / "in" / name, 30, first=len(name))
    words = ["--images", str(tmp_path / "in"), "--labels", "parent", "--json"]
    assert main(["quantize", tiny_model, *words, "--output", str(tmp_path / "m")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy_f32"] is not None and found["auto_takes_int8"] is False  # 30 images
    assert found["digest"] == read_contract(str(tmp_path / "m")).digest


def test_int8_runs_without_nncf_and_tensorflow(model8, photos, tmp_path):
    hidden = "import sys; sys.modules.update(dict.fromkeys(('nncf', 'tensorflow', 'keras')))\n"
    code = hidden + "from imagecensus.jobs.cli import main; sys.exit(main())"
    words = [photos, "--output", tmp_path / "o", "--model", model8, "--precision=int8"]
    done = subprocess.run(
        [sys.executable, "-c", code, "classify", *words, "--no-report"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(read_rows(tmp_path / "o")) == 260


@pytest.mark.real_data
def test_int8_versions_are_the_same_in_int8(tmp_path):
    """`similar` takes the vectors: the nearest image of each is the same as in float32."""
    weights = SHARED_DATA / "weights" / "mobilenet_v2_1.0_224.weights.h5"
    photos = str(SHARED_DATA / "imagenet_sample" / "labels.csv")
    words = ["--weights", str(weights), "--images", photos, "--output", str(tmp_path / "m")]
    assert main(["quantize", *words, "--labels", "column:label"]) == 0
    found = read_contract(str(tmp_path / "m")).metrics["int8"]
    assert found["accuracy_f32"] - found["accuracy_int8"] <= 0.02
    assert found["agreement"] >= 0.95 and found["embedding_cosine"] > 0.97


def test_export_with_images_carries_an_int8_version(tmp_path, photos, capsys):
    import keras

    keras.utils.set_random_seed(4)
    layers = [
        keras.Input((20, 24, 3)),
        keras.layers.Conv2D(5, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, "softmax"),
    ]
    keras.Sequential(layers).save(tmp_path / "net.keras")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    words = ["--labels", str(tmp_path / "labels.txt"), "--input-range", "0..1"]
    words += ["--output", str(tmp_path / "m"), "--images", photos]
    assert main(["export", str(tmp_path / "net.keras"), *words]) == 0
    assert "int8 against f32 on 130 images" in capsys.readouterr().out
    assert read_contract(str(tmp_path / "m")).metrics["int8"]["images"] == 130


def test_a_channel_that_calibration_never_activated_has_a_range_from_zero(tmp_path, photos):
    """nncf gives it -0.0008 to 0.0008, which slows its layer down and cuts other images off."""
    import keras
    import openvino

    keras.utils.set_random_seed(4)
    layers = [
        keras.Input((20, 24, 3)),
        keras.layers.Conv2D(8, 3, activation="relu6", name="some_dead"),
        keras.layers.DepthwiseConv2D(3),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, "softmax"),
    ]
    network = keras.Sequential(layers)
    kernel, bias = network.get_layer("some_dead").get_weights()
    bias[5] = -100
    network.get_layer("some_dead").set_weights([kernel, bias])
    network.save(tmp_path / "net.keras")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    words = ["--labels", str(tmp_path / "labels.txt"), "--input-range", "0..1"]
    words += ["--output", str(tmp_path / "m"), "--images", photos]
    assert main(["export", str(tmp_path / "net.keras"), *words]) == 0
    graph = openvino.Core().read_model(int8_graph(str(tmp_path / "m")))
    clipped = [
        [node.input_value(index).get_node().data.ravel() for index in (1, 2, 3, 4)]
        for node in graph.get_ops()
        if node.get_type_name() == "FakeQuantize"
        and node.input_value(0).get_node().get_type_name() in ("Clamp", "Relu")
    ]
    per_channel = next(ranges for ranges in clipped if len(ranges[1]) == 8)
    assert all((low == 0).all() for ranges in clipped for low in ranges[::2])
    assert per_channel[1][5] == per_channel[1].max() > 0.1
    assert all((ranges[1] == ranges[3]).all() for ranges in clipped)
