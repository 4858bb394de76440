"""The default model: labels, and the way from Keras' file to the cached export."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from web_server import serving_folder

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.contract import read_contract, read_golden
from imagecensus.model_export.default_model import (
    WEIGHTS_FILE,
    default_model,
    imagenet_labels,
    make_golden_images,
)
from imagecensus.model_export.preprocess import PreprocessSpec


def test_labels_are_those_of_keras():
    # Keras states the MD5 of its own list; the three names told apart here are put back.
    with open("model_export/imagenet_labels.txt") as file:
        index = {str(i): line.split() for i, line in enumerate(file)}
    for class_id, name in (("134", "crane"), ("517", "crane"), ("639", "maillot")):
        index[class_id][1] = name
    content = json.dumps(index).encode()
    assert hashlib.md5(content).hexdigest() == "c2c37ea517e94d9795004a39431a14cb"
    assert len(set(imagenet_labels())) == 1000


def test_golden_images_are_not_trivial():
    images = make_golden_images(PreprocessSpec(), 4)
    assert images.shape == (4, 224, 224, 3)
    assert (images.std(axis=(1, 2, 3)) > 20).all()
    assert np.array_equal(images, make_golden_images(PreprocessSpec(), 4))


@pytest.fixture
def homes(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGECENSUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path


def test_without_the_network_the_error_says_what_to_do(homes, monkeypatch):
    monkeypatch.setenv("IMAGECENSUS_WEIGHTS_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("imagecensus.model_export.common.fetch._ATTEMPTS", 1)
    with pytest.raises(UserError, match="--weights FILE"):
        default_model()


def test_bad_weights_are_refused(homes):
    with pytest.raises(UserError, match="no such file"):
        default_model(str(homes / "absent.h5"))
    (homes / "bad.h5").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="bad.h5: not the weights"):
        default_model(str(homes / "bad.h5"))


@pytest.fixture
def weights_server(tmp_path):
    """Serves a file in the format of Keras' own, with random weights."""
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    folder = tmp_path / "served"
    folder.mkdir()
    keras.utils.set_random_seed(1)
    model = keras.applications.MobileNetV2(weights=None)
    with h5py.File(folder / WEIGHTS_FILE, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)

    with serving_folder(folder) as url:
        yield url


def test_fetched_once_exported_once(homes, monkeypatch, weights_server):
    monkeypatch.setenv("IMAGECENSUS_WEIGHTS_URL", weights_server)
    directory = default_model()
    contract = read_contract(directory)
    assert contract.labels[207] == "golden_retriever"
    assert contract.embedding_size == 1280
    assert read_golden(directory).scores.shape == (4, 10)
    # Found again without the network, and without loading TensorFlow.
    code = (
        "import sys; from imagecensus.model_export.default_model import default_model;"
        "print(default_model()); assert 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "IMAGECENSUS_WEIGHTS_URL": "http://127.0.0.1:9"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == directory
