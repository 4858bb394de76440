"""Keras files from elsewhere: loaded without code of theirs, and what their last layer answers."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import tempfile
import typing
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.foreign.network_checks import FirstLayers, check_size

# Arguments that Keras 2 wrote and Keras 3 does not know, with the values that change nothing.
_KERAS_2: dict[str, dict[str, tuple[typing.Any, ...]]] = {
    "DepthwiseConv2D": {"groups": (1,)},
    "BatchNormalization": {"fused": (None, True, False), "renorm": (False,)},
}
_BLUE_FIRST = re.compile(r"(vgg|resnet)\d+")
_LAMBDA = (
    "it has a Lambda layer, which is Python code that would run here; save the model without it"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KerasFile:
    """A network as its file says it.

    Attributes:
      source: the file, for messages.
      model: the Keras model, [N, height, width, channels] -> [N, classes].
      height, width: of the images that it takes, in pixels.
      channels: 1 or 3.
      classes: how many scores.
      blue_first: it takes blue, green and red in this order.
    """

    source: str
    model: typing.Any
    height: int
    width: int
    channels: int
    classes: int
    blue_first: bool = False

    @property
    def usually_blue_first(self) -> str:
        """The part that is called as one of Keras' networks for which `preprocess_input` puts
        blue first; "": there is none.
        """
        parts = [self.model.name, *(layer.name for layer in self.model.layers)]
        return next(filter(_BLUE_FIRST.fullmatch, parts), "")

    @property
    def ending(self) -> str:
        """What the scores went through last, as "softmax"; "" if unknown."""
        import keras

        layer = self.model.layers[-1]
        while isinstance(layer, keras.Model):
            layer = layer.layers[-1]
        if isinstance(layer, keras.layers.Softmax):
            return "softmax"
        return getattr(getattr(layer, "activation", None), "__name__", "")

    def infer(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores float32 [N, classes] of normalised pixels [N, H, W, channels]."""
        taken = pixels[..., ::-1] if self.blue_first else pixels
        return np.asarray(self.model(taken, training=False), np.float32)

    def first_layers(self) -> FirstLayers:
        """What the network does with pixels first."""
        import keras

        scale, offset, names, normalises = np.ones(1), np.zeros(1), [], False
        for layer in _own_preprocessing(self.model):
            names.append(layer.name)
            if isinstance(layer, keras.layers.Rescaling):
                factor, shift = np.asarray(layer.scale), np.asarray(layer.offset)
            elif layer.mean is None:
                continue
            else:
                mean, variance = (np.asarray(x).reshape(-1) for x in (layer.mean, layer.variance))
                factor = 1 / np.maximum(np.sqrt(variance), 1e-7)
                shift, normalises = -mean * factor, True
            scale, offset = scale * factor, offset * factor + shift
        facts: dict[str, typing.Any] = {"names": tuple(names), "normalises": normalises}
        convolution, norm = _first_convolution(self.model)
        if norm is not None:
            channels, step = norm.moving_mean.shape[0], -1 if self.blue_first else 1
            facts |= {
                "answers": lambda x: np.asarray(convolution(x[..., ::step])).reshape(-1, channels),
                "mean": np.asarray(norm.moving_mean),
                "variance": np.asarray(norm.moving_variance),
            }
        return FirstLayers(scale=scale, offset=offset, **facts)

    def classifier(self, activation: str) -> typing.Any:
        """The model for three channels, which answers with probabilities; its embedding named.

        `activation`: "softmax" or "sigmoid", which the network lacks; "" for none.
        """
        import keras

        from imagecensus.model_export.export import EMBEDDING_LAYER

        dense = [layer for layer in self.model.layers if isinstance(layer, keras.layers.Dense)]
        embedding = (dense or self.model.layers)[-1].input
        inner = keras.Model(self.model.inputs, [self.model.outputs[0], embedding])
        images = keras.Input((self.height, self.width, 3))
        pixels = keras.ops.flip(images, -1) if self.blue_first else images[..., : self.channels]
        scores, features = inner(pixels)
        if activation:
            scores = keras.layers.Activation(activation)(scores)
        if self.classes == 1:  # the second label's probability p: the scores are 1 - p and p
            scores = keras.ops.concatenate([1 - scores, scores], axis=1)
        named = keras.layers.Identity(name=EMBEDDING_LAYER)(features)
        # The embedding is read off the model by name: it has to hang in its graph.
        scores = keras.layers.Lambda(lambda both: both[0])([scores, named])
        return keras.Model(images, scores)


def read_keras(path: str, image_size: int = 0) -> KerasFile:
    """Reads a .keras or .h5 file.

    Args:
      path: of the file.
      image_size: pixels a side, where the network takes any.

    Raises:
      UserError: it cannot be loaded, or takes or answers something else than a classifier does.
    """
    model = load_keras(path)
    shapes = model.input_shape, model.output_shape
    if not all(isinstance(shape, tuple) for shape in shapes):
        raise UserError(f"{path}: has several inputs or outputs; expected one of each")
    taken, answered = shapes
    if len(taken) != 4 or taken[3] not in (1, 3) or len(answered) != 2:
        raise UserError(
            f"{path}: takes {taken} and answers {answered}; expected images"
            " [N, height, width, 1 or 3] and scores [N, classes]"
        )
    height, width = check_size(path, taken[1:3], image_size)
    return KerasFile(
        source=path, model=model, height=height, width=width, channels=taken[3], classes=answered[1]
    )


def load_keras(path: str) -> typing.Any:
    """The Keras model of a .keras or .h5 file.

    Raises:
      UserError: it cannot be loaded; the message ends with the cause.
    """
    import keras

    try:
        with _readable(path) as readable:
            # safe_mode: a file from elsewhere does not get to run code of its own.
            return keras.models.load_model(readable, compile=False, safe_mode=True)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: Keras cannot load it: {_cause(error)}") from None


def _own_preprocessing(model: typing.Any) -> Iterator[typing.Any]:
    """Rescaling and Normalization layers before the first layer that was trained."""
    import keras

    for layer in _leaves(model):
        if isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            yield layer
        elif layer.weights and not type(layer).__name__.startswith("Random"):
            return  # but augmentation, which has weights for its seed


def _leaves(model: typing.Any) -> Iterator[typing.Any]:
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _first_convolution(model: typing.Any) -> tuple[typing.Any, typing.Any]:
    """The first convolution and the batch norm behind it, channels last; (None, None): none."""
    import keras

    layers = list(_leaves(model))
    for layer, following in itertools.pairwise(layers):
        if isinstance(layer, keras.layers.Conv2D):
            known = isinstance(following, keras.layers.BatchNormalization)
            if known and layer.data_format == "channels_last" and following.axis in (-1, 3):
                return layer, following
            break
    return None, None


def _cause(error: Exception) -> str:
    """What went wrong, without the layer's whole config in front of it."""
    text = str(error)
    for marker in ("Exception encountered:", "Could not locate class", "Unknown layer"):
        if marker in text:
            text = text[text.rindex(marker) :].removeprefix("Exception encountered:")
            break
    text = " ".join(text.split())
    if "unsafe_deserialization" in text:
        return _LAMBDA
    if "Could not locate" in text or "Unknown layer" in text:
        named = text.split("'")[1] if text.count("'") > 1 else "a layer"
        return (
            f"it has a layer of its own, {named!r}, whose Python code is not in the file; build it"
            " of Keras' own layers only and save it again"
        )
    return text[:1000]


@contextlib.contextmanager
def _readable(path: str) -> Iterator[str]:
    """The file, or a copy of it without what Keras 2 wrote and Keras 3 refuses."""
    import h5py

    if not h5py.is_hdf5(path):
        yield path
        return
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
    if config is None:
        raise UserError(f"{path}: holds weights only; save the whole model (model.save)")
    tree = json.loads(config)
    if '"Lambda"' in json.dumps(tree):
        raise UserError(f"{path}: Keras cannot load it: {_LAMBDA}")
    if not _repair(tree):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="imagecensus-") as folder:
        copy = os.path.join(folder, "model.h5")
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(tree)
        yield copy


def _repair(tree: typing.Any) -> bool:
    """Drops the arguments of Keras 2 in place; says whether there were any."""
    if isinstance(tree, list):
        return any([_repair(entry) for entry in tree])  # noqa: C419 - each of them, not up to one
    if not isinstance(tree, dict):
        return False
    changed = any([_repair(entry) for entry in tree.values()])  # noqa: C419 - each of them
    config = tree.get("config")
    for name, values in _KERAS_2.get(str(tree.get("class_name")), {}).items():
        if isinstance(config, dict) and name in config and config[name] in values:
            del config[name]
            changed = True
    return changed
