"""TensorFlow Hub modules: a real one in hub format, fetched over loopback HTTP."""

import http.server
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from images import write_class_folders
from web_server import serving

from imagecensus.jobs.cli import main
from imagecensus.model_export.contract import ModelError, read_contract
from imagecensus.model_export.training.backbones import (
    BackboneError,
    BackboneSpec,
    build_backbone,
    default_preprocess,
)
from imagecensus.model_export.verify import check_model

SIZE = 32


class FeatureVector(tf.Module):
    """What hub's image feature vectors look like: [0, 1] images in, [N, D] out."""

    def __init__(self, size):
        super().__init__()
        rng = tf.random.Generator.from_seed(1)
        self.kernel = tf.Variable(rng.normal([5, 5, 3, 12]) * 0.3)
        self.trainable_variables_ = [self.kernel]
        spec = [tf.TensorSpec([None, size, size, 3], tf.float32), tf.TensorSpec([], tf.bool)]
        self.__call__ = tf.function(self._features, input_signature=spec)

    def _features(self, images, training=False):
        features = tf.nn.relu(tf.nn.conv2d(images - 0.5, self.kernel, 2, "SAME"))
        # Training changes the answer, as dropout would: a trunk must never be called so.
        return tf.reduce_mean(features, [1, 2]) + tf.where(training, 100.0, 0.0)


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("hub") / "module")
    tf.saved_model.save(FeatureVector(SIZE), folder)
    return folder


@pytest.fixture(scope="module")
def archive(module_folder, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("archive") / "module.tar.gz")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(module_folder, arcname=".")
    return path


@pytest.fixture
def url(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/google/small/feature_vector/1?tf-hub-format=compressed"
            with open(archive, "rb") as file:
                content = file.read()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with serving(Handler) as server:
        yield f"{server.url}/google/small/feature_vector/1"


def test_a_module_by_url_trains_and_exports(url, tmp_path, proof_here):
    write_class_folders(tmp_path / "data", {"disc": 16, "stripes": 16}, size=SIZE)
    output = str(tmp_path / "model")
    words = ["train", str(tmp_path / "data"), "--output", output, "--backbone", f"hub:{url}"]
    assert main([*words, "--epochs", "5", "--quiet"]) == 0
    contract = read_contract(output)
    assert contract.embedding_size == 12
    assert (contract.preprocess.scale, contract.preprocess.offset) == (1 / 255, 0.0)
    assert contract.preprocess.height == SIZE
    assert contract.metrics["export"]["serving_default"] <= 1e-5
    assert all(finding.ok for finding in check_model(output)), check_model(output)


def test_folder_and_archive_are_the_same_module(module_folder, archive, monkeypatch, tmp_path):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub"))
    images = np.random.default_rng(0).uniform(0, 1, (2, SIZE, SIZE, 3)).astype("float32")
    answers = []
    for handle in (module_folder, archive):
        backbone = BackboneSpec(name=f"hub:{handle}")
        trunk = build_backbone(backbone, default_preprocess(backbone, 0)).trunk
        answers.append(trunk.predict(images, verbose=0))
    assert np.array_equal(*answers) and answers[0].max() < 50


def test_a_module_that_reads_files_needs_trust(monkeypatch, tmp_path):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub"))

    class Reads(FeatureVector):
        def _features(self, images, training=False):
            length = tf.strings.length(tf.io.read_file("/etc/hostname"))
            return super()._features(images, training) + tf.cast(length, tf.float32) * 0

    folder = str(tmp_path / "module")
    tf.saved_model.save(Reads(SIZE), folder)
    with pytest.raises(ModelError, match="ReadFile"):
        default_preprocess(BackboneSpec(name=f"hub:{folder}"), 0)
    assert default_preprocess(BackboneSpec(name=f"hub:{folder}", trust=True), 0).height == SIZE


def test_what_does_not_fit_is_refused_before_training(module_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub"))
    with pytest.raises(BackboneError, match="takes 32x32 images, --image-size is 64"):
        default_preprocess(BackboneSpec(name=f"hub:{module_folder}"), 64)
    with pytest.raises(BackboneError, match="cannot be loaded"):
        default_preprocess(BackboneSpec(name=f"hub:{tmp_path}/absent"), 0)
    with pytest.raises(BackboneError, match="cannot be loaded"):
        default_preprocess(BackboneSpec(name="hub:http://127.0.0.1:9/module"), 0)
