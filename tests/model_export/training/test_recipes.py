"""Recipes: each one is understood, described, built, and takes a training step."""

import keras
import numpy as np
import pytest

from imagecensus.jobs.cli import main, parse
from imagecensus.jobs.train import training_spec
from imagecensus.model_export.training import recipes
from imagecensus.model_export.training.classifier import build_classifier
from imagecensus.model_export.training.decoded_images import ArrayCache, Images
from imagecensus.model_export.training.features import TrainingRun, fit_all
from imagecensus.model_export.training.fit import make_strategy
from tests.model_export.training.test_hub import FeatureVector

CLASSES = {"flowers": 102, "imagenette": 10, "imagenette-vgg16": 10, "wildlife": 20, "mnist": 10,
           "cifar10": 10, "flower-photos": 5}  # fmt: skip
PRETRAINED = ("flowers", "flower-photos", "bikes-transfer", "imagenette-vgg16", "wildlife",
              "cats-dogs-transfer")  # fmt: skip
IMAGES = 6


@pytest.fixture
def hub_module(tmp_path):
    """A module in hub format in the place of the one that a recipe names by its address."""
    import tensorflow as tf

    folder = str(tmp_path / "module_32")
    tf.saved_model.save(FeatureVector(32), folder)
    return folder


def test_they_are_listed_with_their_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--list-recipes"])
    text = capsys.readouterr().out
    for name in recipes.NAMES:
        assert f"imagecensus train --recipe {name} " in text


@pytest.mark.parametrize("name", recipes.NAMES)
def test_it_is_built_and_takes_a_step(name, hub_module, tmp_path):
    words = [*recipes.recipe_flags(name), "data", "--output", "m"]
    words += ["--epochs", "1", "--feature-passes", "1", "--fine-tune-epochs", "1"]
    if name == "wildlife":  # its module's address cannot be reached from a test
        words += ["--backbone", f"hub:{hub_module}"]
    elif name in PRETRAINED:  # the same layers, smaller
        words += ["--image-size", "32"]
        words += ["--alpha", "0.35"] if "vgg16" not in name else []
    spec = training_spec(parse("train", words), CLASSES.get(name, 2))
    strategy = make_strategy(1)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        classifier = build_classifier(spec.classifier, load_weights=False)
    shape = spec.classifier.preprocess.shape
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *shape)).astype(np.uint8)
    labels = np.arange(IMAGES, dtype=np.int32) % 2
    split = Images(pixels=pixels, rows=np.arange(IMAGES), labels=labels, names=tuple("abcdef"))
    nothing = Images(pixels=pixels, rows=np.arange(0), labels=labels[:0], names=())
    before = [np.asarray(v) for v in classifier.head.trainable_weights]
    cache = ArrayCache(directory=str(tmp_path), memory_bytes=2**28, disk_bytes=0)
    history = fit_all(
        classifier,
        {"train": split, "val": nothing},
        TrainingRun(
            spec=spec,
            strategy=strategy,
            work=str(tmp_path),
            cache=cache,
            say=lambda line: None,
            progress=False,
        ),
    )
    assert {entry["phase"] for entry in history} >= {"head" if spec.frozen_trunk else "network"}
    assert all(np.isfinite(entry["loss"]) for entry in history)
    after = [np.asarray(v) for v in classifier.head.trainable_weights]
    assert not all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert spec.frozen_trunk is (name in PRETRAINED)
    assert any(entry["phase"] == "fine-tune" for entry in history) is (name == "flower-photos")


def test_the_cnn_of_the_bikes_is_the_published_one():
    spec = training_spec(parse("train", ["--recipe", "bikes", "d", "--output", "m"]), 2)
    layers = build_classifier(spec.classifier).backbone.trunk.layers
    found = "-".join(str(getattr(layer, "filters", "pool")) for layer in layers[1:-1])
    assert found == "32-32-pool-32-32-pool-32-pool"
    assert spec.classifier.preprocess.shape == (64, 64, 3)
    assert spec.classifier.hidden == (32, 16)
