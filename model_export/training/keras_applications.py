"""The networks of `keras.applications` as trunks, each with its own preprocessing.

Their names are Keras' (`MobileNetV3Small`), also written `mobilenet_v3_small`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import keras

from imagecensus.model_export.common.errors import BackboneError, first_line

# What a network takes pixels of 0 to 255 as, by the name of Keras' own `preprocess_input`.
_RAW = "raw"  # as they are: the network's first layers rescale them
_TF = "tf"  # -1 to 1
_TORCH = "torch"  # 0 to 1, ImageNet's means and deviations
_CAFFE = "caffe"  # BGR, ImageNet's means
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEANS = (103.939, 116.779, 123.68)  # of blue, green, red

# Keras' name: preprocessing, pixels a side. The first pattern that fits counts.
_FAMILIES: tuple[tuple[str, str, int], ...] = (
    (r"EfficientNetV2[SML]", _RAW, 384),
    (r"EfficientNetV2B\d|EfficientNetB\d|ConvNeXt.*|MobileNetV3.*", _RAW, 224),
    (r"InceptionV3|InceptionResNetV2|Xception", _TF, 299),
    (r"NASNetLarge", _TF, 331),
    (r"MobileNet|MobileNetV2|NASNetMobile|ResNet\d+V2", _TF, 224),
    (r"DenseNet\d+", _TORCH, 224),
    (r"ResNet\d+|VGG\d+", _CAFFE, 224),
)
# Of the families whose members differ: the size that each was trained at.
_SIZES = {
    "EfficientNetB1": 240, "EfficientNetB2": 260, "EfficientNetB3": 300, "EfficientNetB4": 380,
    "EfficientNetB5": 456, "EfficientNetB6": 528, "EfficientNetB7": 600, "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260, "EfficientNetV2B3": 300, "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
}  # fmt: skip
_MERGES = (keras.layers.Add, keras.layers.Concatenate)
_POOLS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Application:
    """One of Keras' networks: its name, how it takes pixels, and the side it was trained at."""

    name: str
    preprocessing: str
    size: int

    @property
    def make(self) -> Any:
        """Keras' function that builds it."""
        return getattr(keras.applications, self.name)

    @property
    def scale(self) -> float | tuple[float, ...]:
        """Of `PreprocessSpec`."""
        if self.preprocessing == _TORCH:
            return tuple(1 / 255 / deviation for deviation in IMAGENET_DEVIATION)
        return 1 / 127.5 if self.preprocessing == _TF else 1.0

    @property
    def offset(self) -> float | tuple[float, ...]:
        """Of `PreprocessSpec`."""
        if self.preprocessing == _TORCH:
            pairs = zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)
            return tuple(-mean / deviation for mean, deviation in pairs)
        return -1.0 if self.preprocessing == _TF else 0.0


def find_application(name: str) -> Application | None:
    """The network of that name, however its words are joined; None where there is none."""
    wanted = _folded(name)
    for own in dir(keras.applications):
        if own[0].isupper() and _folded(own) == wanted:
            for pattern, preprocessing, size in _FAMILIES:
                if re.fullmatch(pattern, own):
                    side = _SIZES.get(own, size)
                    return Application(name=own, preprocessing=preprocessing, size=side)
    return None


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def build_application(
    application: Application, shape: tuple[int, int, int], alpha: float, whole: bool = False
) -> tuple[keras.KerasTensor, keras.Model]:
    """The input (normalised by the application's scale and offset), and the network on it.

    Args:
      application: which.
      shape: of the input, height, width and 3.
      alpha: of the width; 1 where the network has no such option.
      whole: with its head of 1000 classes, as weights files may have it.

    Raises:
      BackboneError: it cannot be built of that size or width.
    """
    options: dict[str, Any] = {"include_top": whole, "weights": None}
    if "alpha" in inspect.signature(application.make).parameters:
        options["alpha"] = alpha
    elif alpha != 1:
        raise BackboneError(f"--alpha {alpha}: {application.name} has one width; leave it out")
    inputs = keras.Input(shape)
    pixels = inputs
    if application.preprocessing == _CAFFE:  # the weights want BGR with the means taken away
        pixels = keras.ops.flip(inputs, axis=-1) - keras.ops.array(_CAFFE_MEANS, "float32")
    try:
        return inputs, application.make(input_tensor=pixels, **options)
    except ValueError as error:
        raise BackboneError(
            f"--backbone {application.name}: cannot be built: {first_line(error)}"
        ) from None


def blocks_of(network: keras.Model) -> list[list[keras.layers.Layer]]:
    """A network's layers in groups from input to output, for fine-tuning the last ones.

    A group ends with a sum, a concatenation or a pooling that is the only way from the layers up to
    it to those behind it.
    """
    order = {id(layer): index for index, layer in enumerate(network.layers)}
    reach = list(range(len(network.layers)))  # the last layer that takes this one's output
    for index, layer in enumerate(network.layers):
        for node in layer._inbound_nodes:
            for tensor in node.input_tensors:
                source = order.get(id(tensor._keras_history.operation))
                if source is not None:
                    reach[source] = max(reach[source], index)
    groups: list[list[keras.layers.Layer]] = [[]]
    farthest = 0
    for index, layer in enumerate(network.layers):
        groups[-1].append(layer)
        last = index == len(network.layers) - 1
        if farthest <= index and isinstance(layer, (*_MERGES, *_POOLS)) and not last:
            groups.append([])
        farthest = max(farthest, reach[index])
    return groups
