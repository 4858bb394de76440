"""Backbones by name: the part of a classifier that turns an image into features.

mobilenet_v2             MobileNet-V2 of any alpha and size that Keras has
resnet50, ...            any other network of `keras.applications`, see `keras_applications`
cnn:32-32-pool-...       a small CNN, layer by layer: a number is a 3x3 convolution with ReLU,
                         `pool` a 2x2 max pooling, `bn` batch norm, `drop0.25` dropout,
                         `gap` global average pooling (the end is flattened without it)
hub:HANDLE               a TensorFlow Hub module: URL, .tar.gz or SavedModel folder
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

import keras

from imagecensus.model_export.common.errors import BackboneError, first_line
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.training.keras_applications import (
    Application,
    blocks_of,
    build_application,
    find_application,
)

# Parameters of Keras' MobileNet-V2 without its head, by alpha: they show which alpha a file has.
MOBILENET_V2_PARAMETERS = {
    410_208: 0.35,
    706_224: 0.5,
    1_382_064: 0.75,
    2_257_984: 1.0,
    3_766_048: 1.3,
    4_363_712: 1.4,
}
# Keras' batch norm keeps 99.9 % of its running averages at each step, which takes thousands of
# steps to settle; a network trained from nothing on a small set never gets there.
SHORT_TRAINING_MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A trunk and what a trainer must know of it.

    Attributes:
      trunk: float32 [N, H, W, 3], normalised -> features float32 [N, D].
      blocks: its layers in groups from input to output, for fine-tuning the last ones; the last
        layer of a group is the only way out of it.
      pretrained: its weights come from elsewhere, so that a frozen trunk makes sense.
      can_train: gradients can flow into it.
    """

    trunk: keras.Model
    blocks: tuple[tuple[keras.layers.Layer, ...], ...]
    pretrained: bool
    can_train: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Which backbone: enough to build the same one again."""

    name: str = "mobilenet_v2"
    alpha: float = 1.0
    weights: str = "imagenet"  # "imagenet", "none" or a file; hub modules bring their own
    trust: bool = False  # run a hub module whose graph may touch files or the network

    @property
    def kind(self) -> str:
        kind = self.name.split(":")[0]
        application = find_application(kind)
        if kind in _BUILDERS or not application:
            return kind
        return "mobilenet_v2" if application.name == "MobileNetV2" else "application"

    @property
    def config(self) -> str:
        return self.name.partition(":")[2]

    @property
    def pretrained(self) -> bool:
        return self.weights != "none" and self.kind != "cnn"


def default_preprocess(backbone: BackboneSpec, size: int, color: str = "rgb") -> PreprocessSpec:
    """The preprocessing a backbone expects; `size` 0 takes the backbone's own.

    Raises:
      BackboneError: no such backbone, or a hub module of another size.
    """
    _check_name(backbone)
    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    if backbone.kind == "hub":
        from imagecensus.model_export.training.hub import expected_size

        own = expected_size(backbone.config, backbone.trust)
        if size and own and size != own:
            raise BackboneError(
                f"{backbone.name}: the hub module takes {own}x{own} images, --image-size is"
                f" {size}; leave the flag out"
            )
        size, scale, offset = own or size or 224, 1 / 255, 0.0
    elif backbone.kind == "application":
        application = _application_of(backbone)
        size, scale, offset = size or application.size, application.scale, application.offset
    elif backbone.kind == "cnn":
        size, scale, offset = size or 64, 1 / 255, 0.0
    else:
        size, scale, offset = size or 224, 1 / 127.5, -1.0
    try:
        return PreprocessSpec(height=size, width=size, color=color, scale=scale, offset=offset)
    except ValueError as error:
        raise BackboneError(f"--image-size {size}: {error}") from None


def build_backbone(
    backbone: BackboneSpec, spec: PreprocessSpec, load_weights: bool = True
) -> Backbone:
    """Builds a trunk in the current strategy's scope.

    Args:
      backbone: which one.
      spec: its input.
      load_weights: False builds the same shape with random weights, to be assigned over.

    Raises:
      BackboneError: unknown name, wrong config, or weights that cannot be read or do not fit.
    """
    _check_name(backbone)
    return _BUILDERS[backbone.kind](backbone, spec, load_weights)


def _check_name(backbone: BackboneSpec) -> None:
    if backbone.kind not in _BUILDERS:
        raise BackboneError(
            f"--backbone {backbone.name}: unknown; it is one of mobilenet_v2, another network of"
            " keras.applications (mobilenet_v3_small, efficientnet_v2_b0, convnext_tiny, resnet50"
            " ...), cnn:LAYERS, hub:HANDLE"
        )
    if backbone.kind in ("cnn", "hub") and not backbone.config:
        example = "cnn:32-32-pool-64-pool" if backbone.kind == "cnn" else "hub:https://..."
        raise BackboneError(f"--backbone {backbone.name}: say which, e.g. {example}")


def _mobilenet_v2(backbone: BackboneSpec, spec: PreprocessSpec, load_weights: bool) -> Backbone:
    if backbone.alpha not in MOBILENET_V2_PARAMETERS.values() and backbone.weights == "imagenet":
        raise BackboneError(
            f"--alpha {backbone.alpha}: Keras has ImageNet weights for"
            f" {', '.join(map(str, MOBILENET_V2_PARAMETERS.values()))}; take one of them, or"
            " --weights none"
        )
    if min(spec.height, spec.width) < 32:
        raise BackboneError(
            f"--image-size {spec.height}: mobilenet_v2 takes images of 32 pixels or more"
        )
    network = keras.applications.MobileNetV2(
        input_shape=spec.shape, alpha=backbone.alpha, include_top=False, weights=None
    )
    _load(network, backbone, load_weights, _application_of(backbone))
    if backbone.weights == "none":
        _settle_soon(network)
    stem: list[keras.layers.Layer] = []
    blocks: dict[int, list[keras.layers.Layer]] = {}
    end: list[keras.layers.Layer] = []
    for layer in network.layers:
        match = re.match(r"block_(\d+)_|(expanded_conv)_", layer.name)
        if match:
            blocks.setdefault(int(match[1] or 0), []).append(layer)
        else:
            (end if blocks else stem).append(layer)
    groups = [stem, *(blocks[key] for key in sorted(blocks)), end]
    features = keras.layers.GlobalAveragePooling2D(name="pool")(network.output)
    return Backbone(
        trunk=keras.Model(network.input, features, name="trunk"),
        blocks=tuple(map(tuple, groups)),
        pretrained=backbone.weights != "none",
    )


def _application(backbone: BackboneSpec, spec: PreprocessSpec, load_weights: bool) -> Backbone:
    application = _application_of(backbone)
    inputs, network = build_application(application, spec.shape, backbone.alpha)
    _load(network, backbone, load_weights, application)
    if backbone.weights == "none":
        _settle_soon(network)
    features = keras.layers.GlobalAveragePooling2D(name="pool")(network.output)
    return Backbone(
        trunk=keras.Model(inputs, features, name="trunk"),
        blocks=tuple(map(tuple, blocks_of(network))),
        pretrained=backbone.weights != "none",
    )


def _application_of(backbone: BackboneSpec) -> Application:
    application = find_application(backbone.name.split(":")[0])
    assert application  # its kind says so
    return application


def _settle_soon(network: keras.Model) -> None:
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = SHORT_TRAINING_MOMENTUM


def _cnn(backbone: BackboneSpec, spec: PreprocessSpec, load_weights: bool) -> Backbone:
    inputs = x = keras.Input(spec.shape)
    for word in backbone.config.split("-"):
        if len(x.shape) != 4:
            raise BackboneError(f"--backbone {backbone.name}: nothing comes after gap")
        layer = _cnn_layer(word, backbone)
        if isinstance(layer, keras.layers.MaxPooling2D) and min(x.shape[1:3]) < 2:
            raise BackboneError(
                f"--backbone {backbone.name}: too many pools for --image-size {spec.height}"
            )
        x = layer(x)
    if len(x.shape) == 4:
        x = keras.layers.Flatten()(x)
    trunk = keras.Model(inputs, x, name="trunk")
    return Backbone(trunk=trunk, blocks=(tuple(trunk.layers),), pretrained=False)


def _cnn_layer(word: str, backbone: BackboneSpec) -> keras.layers.Layer:
    makers: list[tuple[str, Callable[..., keras.layers.Layer]]] = [
        (r"(\d+)", lambda n: keras.layers.Conv2D(int(n), 3, padding="same", activation="relu")),
        (r"pool", lambda: keras.layers.MaxPooling2D()),
        (r"bn", lambda: keras.layers.BatchNormalization(momentum=SHORT_TRAINING_MOMENTUM)),
        (r"drop(0\.\d+)", lambda rate: keras.layers.Dropout(float(rate))),
        (r"gap", lambda: keras.layers.GlobalAveragePooling2D()),
    ]
    for pattern, make in makers:
        match = re.fullmatch(pattern, word)
        if match and word != "0":
            return make(*match.groups())
    raise BackboneError(
        f"--backbone {backbone.name}: {word!r} is no layer; use numbers (3x3 convolutions), pool,"
        " bn, drop0.25, gap"
    )


def _hub(backbone: BackboneSpec, spec: PreprocessSpec, load_weights: bool) -> Backbone:
    from imagecensus.model_export.training.hub import build_hub_trunk

    trunk = build_hub_trunk(backbone.config, spec, backbone.trust)
    return Backbone(trunk=trunk, blocks=(), pretrained=True, can_train=False)


_BUILDERS = {"mobilenet_v2": _mobilenet_v2, "application": _application, "cnn": _cnn, "hub": _hub}


def _load(
    network: keras.Model, backbone: BackboneSpec, load_weights: bool, application: Application
) -> None:
    """Loads `--weights` into a network without a head."""
    if not load_weights or backbone.weights == "none":
        return
    if backbone.weights == "imagenet":
        _load_imagenet(network, backbone, application)
        return
    path = backbone.weights
    if not os.path.isfile(path):
        raise BackboneError(f"--weights {path}: no such file (or say imagenet, or none)")
    try:
        network.load_weights(path)
        return
    except Exception as error:
        first = error
    # A file that was saved with its 1000-class head holds the trunk too.
    try:
        shape = (application.size, application.size, 3)
        _, whole = build_application(application, shape, backbone.alpha, whole=True)
        whole.load_weights(path)
        _take_weights(network, whole)
    except Exception:
        raise BackboneError(_weights_problem(path, network, backbone, first)) from None


def _take_weights(network: keras.Model, whole: keras.Model) -> None:
    """Sets a network's weights to those of one that has layers behind it. Raises ValueError."""
    layers = [layer for layer in whole.layers if layer.weights]
    # By order: some of Keras' layers are named by a counter.
    for layer, trained in zip([one for one in network.layers if one.weights], layers, strict=False):
        layer.set_weights(trained.get_weights())


def _load_imagenet(network: keras.Model, backbone: BackboneSpec, application: Application) -> None:
    options = {"alpha": backbone.alpha} if application.name.startswith("MobileNet") else {}
    try:
        source = application.make(
            input_shape=network.input_shape[1:], include_top=False, weights="imagenet", **options
        )
    except Exception as error:
        raise BackboneError(
            f"--weights imagenet: Keras' weights of {backbone.name} could not be fetched"
            f" ({error}); on a machine without the network, copy the file there and name it:"
            " --weights FILE"
        ) from None
    network.set_weights(source.get_weights())


def _weights_problem(
    path: str, network: keras.Model, backbone: BackboneSpec, error: Exception
) -> str:
    import h5py

    sizes: list[int] = []

    def add_size(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "optimizer" not in name:
            sizes.append(item.size)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add_size)
    except OSError as unreadable:
        return f"--weights {path}: not a readable Keras weights file (.h5): {unreadable}"
    held, wanted = sum(sizes), network.count_params()
    network_name = backbone.name
    if backbone.kind == "mobilenet_v2":
        network_name += f" (alpha {backbone.alpha})"
    message = (
        f"--weights {path}: holds {held:,} parameters,"
        f" {network_name} has {wanted:,} without its head"
    )
    for parameters, alpha in MOBILENET_V2_PARAMETERS.items():
        last = max(1280, int(1280 * alpha))
        if backbone.kind == "mobilenet_v2" and held in (parameters, parameters + (last + 1) * 1000):
            if alpha != backbone.alpha:
                return f"{message}; it is a file of alpha {alpha}: pass --alpha {alpha}"
            break
    return f"{message}; it does not fit ({first_line(error)[:200]})"
