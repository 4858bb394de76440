"""Networks in files of other tools, made for tests: ONNX, TensorFlow Lite, SavedModel."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDES = (20, 24)


def write_onnx(
    path,
    *,
    batch="N",
    channels_first=True,
    ending="",
    classes=3,
    labels=None,
    saw=None,
    scale=None,
    flatten_names_one=False,
    channels=3,
):
    """A small convolutional classifier [batch, 3, 20, 24] -> [batch, classes]; returns its answers.

    `ending`: an ONNX operation behind its last layer. `labels`: carried in the file. `saw`: pixels
    [N, H, W, 3] that its batch norm behind the first convolution was trained on. `scale`: it
    multiplies pixels by that first. `flatten_names_one`: it holds for a batch of one only.
    """
    rng = np.random.default_rng(5)
    weights = {
        "w": rng.normal(size=(5, channels, 3, 3)),
        "w1": rng.normal(size=(7, 5)),
        "w2": rng.normal(size=(classes, 7)) * 3,
        "b2": rng.normal(size=classes),
    }
    image = [channels, *SIDES] if channels_first else [*SIDES, channels]
    nodes = []
    last = "x"

    def add(kind, *more, **attributes):
        nonlocal last
        nodes.append(helper.make_node(kind, [last, *more], [f"t{len(nodes)}"], **attributes))
        last = nodes[-1].output[0]

    if scale:
        weights["s"] = np.array(scale)
        add("Mul", "s")
    if not channels_first:
        add("Transpose", perm=[0, 3, 1, 2])
    add("Conv", "w")
    if saw is not None:
        seen = _convolve(saw.transpose(0, 3, 1, 2), weights["w"])
        weights |= {"g": np.ones(5), "be": np.zeros(5)}
        weights |= {"m": seen.mean((0, 2, 3)), "v": seen.var((0, 2, 3))}
        add("BatchNormalization", "g", "be", "m", "v")
    add("Relu")
    add("GlobalAveragePool")
    if flatten_names_one:
        nodes.append(helper.make_node("Constant", [], ["one"], value_ints=[1, 5]))
        add("Reshape", "one")
    else:
        add("Flatten")
    add("Gemm", "w1", transB=1)
    add("Tanh")
    add("Gemm", "w2", "b2", transB=1)
    if ending:
        add(ending)
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", floats, [batch, *image])],
        [helper.make_tensor_value_info(last, floats, [batch, classes])],
        [numpy_helper.from_array(np.float32(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if labels:
        helper.set_model_props(model, {"names": repr(dict(enumerate(labels))), "task": "classify"})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def answers_of_onnx(path, pixels):
    """float32 [N, classes] by ONNX's own reference, one image at a time."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load(path))
    return np.concatenate([evaluator.run(None, {"x": one[None]})[0] for one in pixels])


def _convolve(images, kernel):
    """[N, C, h, w] by [O, C, 3, 3], without a border."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, kernel)


def keras_network(ending="softmax"):
    """A small classifier with a batch norm and its own scaling, of the same images."""
    import keras

    keras.utils.set_random_seed(4)
    return keras.Sequential(
        [
            keras.Input((*SIDES, 3)),
            keras.layers.Rescaling(1 / 127.5, -1),
            keras.layers.Conv2D(5, 3),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(7, "relu"),
            keras.layers.Dense(3, ending, kernel_initializer=keras.initializers.RandomNormal(0, 8)),
        ]
    )


def write_tflite(path, model, labels=None):
    """`model` as TensorFlow Lite writes it; `labels` packed behind it."""
    import zipfile

    import tensorflow as tf

    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    if labels:
        with zipfile.ZipFile(path, "a") as files:
            files.writestr("labels.txt", "\n".join(labels) + "\n")
