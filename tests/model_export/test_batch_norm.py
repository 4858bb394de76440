"""Batch norms folded into convolutions: fewer operations, the same answers."""

from __future__ import annotations

import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401  before TensorFlow

# isort: split
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from imagecensus.model_export.batch_norm import fold_batch_norms


def frozen(*stack: layers.Layer, together=None):
    """The stack over float32 [N, 8, 8, 3] as a function without variables, batch norms not neutral.

    `together` also reads what the first layer puts out.
    """
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    first = x = stack[0](images)
    for layer in stack[1:]:
        x = layer(x)
    model = keras.Model(images, together([first, x]) if together else x)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    call = tf.function(lambda x: model(x, training=False))
    spec = tf.TensorSpec([None, 8, 8, 3], tf.float32)
    return convert_variables_to_constants_v2(call.get_concrete_function(spec))


def operations(function) -> list[str]:
    return [op.type for op in function.graph.get_operations()]


def numbers(function) -> int:
    """How many numbers its constants hold."""
    constants = [op for op in function.graph.get_operations() if op.type == "Const"]
    return sum(op.outputs[0].shape.num_elements() for op in constants)


IMAGES = tf.constant(np.random.default_rng(1).normal(size=(3, 8, 8, 3)), tf.float32)


@pytest.mark.parametrize(
    "stack",
    [
        [layers.Conv2D(5, 3, use_bias=False), layers.BatchNormalization()],
        [layers.DepthwiseConv2D(3, use_bias=False), layers.BatchNormalization()],
        [
            layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, use_bias=False),
            layers.BatchNormalization(scale=False),
            layers.ReLU(6),
            layers.Conv2D(4, 1, use_bias=False),
            layers.BatchNormalization(center=False),
        ],
    ],
    ids=["convolution", "depthwise", "a block"],
)
def test_a_folded_batch_norm_answers_the_same_with_fewer_operations(stack):
    before = frozen(*stack)
    after = fold_batch_norms(before)
    norms = sum(isinstance(layer, layers.BatchNormalization) for layer in stack)
    assert operations(after).count("BiasAdd") == norms
    assert not {"Mul", "AddV2", "Rsqrt"} & set(operations(after))
    assert numbers(after) < numbers(before)  # the unfolded weights are gone
    np.testing.assert_allclose(after(IMAGES)[0], before(IMAGES)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("stack", "together"),
    [
        ([layers.Conv2D(5, 3)], None),
        ([layers.Conv2D(5, 3, activation="relu"), layers.BatchNormalization()], None),
        ([layers.Conv2D(5, 3, use_bias=False), layers.BatchNormalization()], layers.Concatenate()),
        ([layers.AveragePooling2D(2), layers.BatchNormalization()], None),
    ],
    ids=["no batch norm", "after an activation", "read twice", "no convolution"],
)
def test_what_cannot_be_folded_stays_as_it_is(stack, together):
    before = frozen(*stack, together=together)
    assert fold_batch_norms(before) is before
