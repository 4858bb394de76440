"""What a network's own layers say of its pixels is believed before its user's flag."""

import keras
import numpy as np
import pytest

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.default_model import make_golden_images
from imagecensus.model_export.foreign.keras_file import KerasFile
from imagecensus.model_export.foreign.network_checks import (
    RANGES,
    check_input_range,
    check_normalisation,
    choose_activation,
)
from imagecensus.model_export.preprocess import PreprocessSpec


def first_layers(model):
    file = KerasFile(source="", model=model, height=24, width=24, channels=3, classes=2)
    return file.first_layers()


PIXELS = make_golden_images(PreprocessSpec(height=24, width=24))


def network(*first, trained_on=None):
    """A network that begins with some layers; its batch norm saw pixels of a range."""
    layers = [keras.Input((24, 24, 3)), *first, keras.layers.Conv2D(4, 3)]
    layers += [keras.layers.BatchNormalization(momentum=0.0)] if trained_on else []
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(2)])
    if trained_on:
        scale, offset = RANGES[trained_on]
        model(PIXELS.astype(np.float32) * scale + offset, training=True)
    return model


def fitting(model):
    found = []
    for name in RANGES:
        try:
            check_input_range(first_layers(model), "net.keras", name, PIXELS)
            found.append(name)
        except UserError as error:
            assert "net.keras" in str(error) and name in str(error)
    return found


def adapted(scale):
    layer = keras.layers.Normalization()
    layer.adapt(PIXELS.astype(np.float32) * scale)
    return layer


@pytest.mark.parametrize(
    "first, expected",
    [
        ([], list(RANGES)),
        ([keras.layers.Rescaling(1 / 255)], ["0..255"]),
        ([keras.layers.Rescaling(1 / 127.5, -1)], ["0..255"]),
        ([keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 255)], ["0..255"]),
        ([keras.layers.Rescaling(2.0, -1)], list(RANGES)),
        ([adapted(1.0)], ["0..255"]),
        ([adapted(1 / 255)], ["0..1", "-1..1"]),
        ([keras.Sequential([keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(3, 1)])],
         ["0..255"]),
    ],
)  # fmt: skip
def test_layers_that_scale_pixels_tell_the_range(first, expected):
    assert fitting(network(*first)) == expected


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "MobileNetV3Small", "ConvNeXtTiny"])
def test_networks_of_keras_that_scale_pixels_themselves(name):
    make = getattr(keras.applications, name)
    inner = make(input_shape=(32, 32, 3), include_top=False, weights=None)
    outer = keras.Sequential([keras.Input((32, 32, 3)), inner, keras.layers.Flatten()])
    for model in (inner, outer):
        assert fitting(model) == ["0..255"]


def test_a_trained_batch_norm_tells_the_range():
    keras.utils.set_random_seed(3)
    assert "0..255" not in fitting(network(trained_on="-1..1"))
    assert "-1..1" in fitting(network(trained_on="-1..1"))
    assert "0..255" not in fitting(network(trained_on="0..1"))
    assert fitting(network(trained_on="0..255")) == ["0..255"]


def test_probabilities_add_up_to_one():
    def added(*rows, **more):
        told = {"ending": "linear", **more}
        return choose_activation("net", np.array(rows, np.float32), **told)[0]

    assert added([0.2, 0.8], [1, 0]) == ""
    assert added([0.2, 0.7], [1, 0]) == "softmax"
    assert added([1.2, -0.2]) == "softmax"
    assert added([0.2, 0.7], ending="sigmoid") == ""
    assert added([0.2], ending="linear") == "sigmoid"
    with pytest.raises(UserError, match="leave the flag out"):
        added([0.2, 0.7], ending="sigmoid", logits=True)
    with pytest.raises(UserError, match="from -0.2 to 1.2"):
        added([1.2, -0.2], probabilities=True)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    "means, deviations, fitting",
    [
        (*IMAGENET, ["0..1", "-1..1"]),
        ([255 * x for x in IMAGENET[0]], [255 * x for x in IMAGENET[1]], ["0..255"]),
        ((103.9, 116.8, 123.7), (1, 1, 1), ["0..255"]),
        ((0, 0, 0), (255, 255, 255), ["0..255"]),
        ((0.5,), (0.5,), ["0..1", "-1..1"]),
        ((-0.5,), (1,), ["-1..1"]),
    ],
)
def test_means_and_deviations_are_of_the_range(means, deviations, fitting):
    for name in RANGES:
        if name in fitting:
            check_normalisation(name, means, deviations)
        else:
            with pytest.raises(UserError, match=f"--input-range {' or '.join(fitting)}$"):
                check_normalisation(name, means, deviations)
