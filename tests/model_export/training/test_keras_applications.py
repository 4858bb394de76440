"""Keras' networks by name: each gets pixels as its own `preprocess_input` makes them."""

import importlib

import keras
import numpy as np
import pytest

from imagecensus.model_export.export import normalize
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.training.backbones import (
    BackboneError,
    BackboneSpec,
    build_backbone,
    default_preprocess,
)
from imagecensus.model_export.training.keras_applications import find_application

NAMES = [name for name in dir(keras.applications) if name[0].isupper()]
MODULES = {
    "MobileNetV3Small": "mobilenet_v3", "MobileNet": "mobilenet", "ResNet50": "resnet50",
    "ResNet50V2": "resnet_v2", "DenseNet121": "densenet", "EfficientNetV2B0": "efficientnet_v2",
    "EfficientNetB0": "efficientnet", "ConvNeXtTiny": "convnext", "Xception": "xception",
    "InceptionV3": "inception_v3", "VGG19": "vgg19", "NASNetMobile": "nasnet",
    "InceptionResNetV2": "inception_resnet_v2", "MobileNetV2": "mobilenet_v2",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_network_of_keras_is_known_by_its_names(name):
    found = find_application(name)
    assert found and found.name == name and found.size >= 224
    assert find_application(name.lower().replace("v2", "_v2").replace("net", "net_")) == found


@pytest.mark.parametrize("name", MODULES)
def test_pixels_are_what_keras_own_preprocessing_makes_of_them(name):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    found = find_application(name)
    spec = PreprocessSpec(height=4, width=4, scale=found.scale, offset=found.offset)
    ours = normalize(pixels, spec).numpy()
    if found.preprocessing == "caffe":  # as the trunk begins
        ours = ours[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    module = importlib.import_module(f"keras.applications.{MODULES[name]}")
    assert np.allclose(ours, module.preprocess_input(pixels.astype(np.float32)), atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "EfficientNetV2-B0", "resnet50"])
def test_weights_of_a_file_give_what_keras_gives(name, tmp_path):
    found = find_application(name)
    keras.utils.set_random_seed(1)
    network = found.make(input_shape=(32, 32, 3), include_top=False, weights=None, pooling="avg")
    path = str(tmp_path / "own.weights.h5")
    keras.Model(network.input, network.layers[-2].output).save_weights(path)
    backbone = BackboneSpec(name=name, weights=path)
    spec = default_preprocess(backbone, 32)
    trunk = build_backbone(backbone, spec).trunk
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    module = importlib.import_module(f"keras.applications.{MODULES[found.name]}")
    expected = network(module.preprocess_input(pixels.astype(np.float32)), training=False)
    assert np.allclose(trunk(normalize(pixels, spec), training=False), expected, atol=1e-4)


def test_a_file_with_its_head_holds_the_trunk(tmp_path):
    whole = keras.applications.MobileNetV3Small(
        input_shape=(64, 64, 3), weights=None, alpha=0.75, minimalistic=False
    )
    path = str(tmp_path / "whole.weights.h5")
    whole.save_weights(path)
    backbone = BackboneSpec(name="mobilenet_v3_small", alpha=0.75, weights=path)
    trunk = build_backbone(backbone, default_preprocess(backbone, 64)).trunk
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    pools = [one for one in whole.layers if isinstance(one, keras.layers.GlobalAveragePooling2D)]
    last = pools[-1].input  # the head's
    expected = keras.Model(whole.input, last)(images, training=False)
    assert np.allclose(trunk(images, training=False), np.mean(expected, (1, 2)), atol=1e-4)


def test_what_cannot_be_built_is_refused():
    backbone = BackboneSpec(name="inception_v3", weights="none")
    with pytest.raises(BackboneError, match="InceptionV3: cannot be built"):
        build_backbone(backbone, default_preprocess(backbone, 32))
    backbone = BackboneSpec(name="resnet50", weights=__file__)
    with pytest.raises(BackboneError, match="not a readable Keras weights file"):
        build_backbone(backbone, default_preprocess(backbone, 32))
