"""What a network from elsewhere says of its own input and output, against what its user says.

Layers that rescale or normalise pixels tell which pixels a network takes; a first batch norm tells
what its convolution answered in training. So a wrong `--input-range` is noticed before a model is
made of it that answers nonsense.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from imagecensus.model_export.common.errors import UserError

# What pixels of 0 to 255 become; the flag's values.
RANGES = {"0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0), "0..255": (1.0, 0.0)}
_FLAT = 0.1  # wide: no network takes pixels whose black and white are as near as that
_WIDE = 100.0  # behind a normalisation: deviations between black and white
_FAR, _NEAR = 30.0, 4.0  # times that batch norm's deviations may be off: surely wrong, maybe right


def check_input_range(
    model: keras.Model, source: str, chosen: str, pixels: NDArray[np.uint8], channels: bool = False
) -> None:
    """Compares a network's own layers with the range that its user names.

    Args:
      model: float32 [N, H, W, 1 or 3] -> anything.
      source: its file, for the message.
      chosen: one of `RANGES`.
      pixels: uint8 [N, H, W, 3] of images with some structure.
      channels: the range is changed further for each channel, by --mean and --std.

    Raises:
      UserError: they contradict each other.
    """
    if channels:
        return
    fitting = [name for name in RANGES if _fits_layers(model, name)]
    if chosen not in fitting:
        named = ", ".join(repr(layer.name) for layer in _own_preprocessing(model))
        remedy = f"; say --input-range {fitting[0]}" if len(fitting) == 1 else ""
        raise UserError(
            f"{source}: scales pixels itself (layer {named}), so that --input-range {chosen} would"
            f" scale them twice or not at all{remedy}"
        )
    if any(True for _ in _own_preprocessing(model)):
        return
    off = {name: _off_batch_norm(model, name, pixels) for name in RANGES}
    found = off[chosen]
    better = [name for name, value in off.items() if value is not None and value < _NEAR]
    if found is not None and found > _FAR and better:
        raise UserError(
            f"{source}: --input-range {chosen} gives its first convolution answers {found:,.0f}"
            f" times off those that its batch norm saw in training; {' or '.join(better)} fits"
        )


def _own_preprocessing(model: keras.Model) -> Iterator[Any]:
    """Rescaling and Normalization layers before the first layer that was trained."""
    for layer in _leaves(model):
        if isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            yield layer
        elif layer.weights and not type(layer).__name__.startswith("Random"):
            return  # but augmentation, which has weights for its seed


def _leaves(model: keras.Model) -> Iterator[Any]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _fits_layers(model: keras.Model, name: str) -> bool:
    """Whether black and white stay apart, and not too far, behind the network's own layers."""
    scale, offset = RANGES[name]
    ends = np.array([[0.0] * 3, [255.0] * 3]) * scale + offset
    layers = list(_own_preprocessing(model))
    for layer in layers:
        if isinstance(layer, keras.layers.Rescaling):
            ends = ends * np.asarray(layer.scale) + np.asarray(layer.offset)
        elif layer.mean is not None:
            mean, variance = (np.asarray(x).reshape(-1) for x in (layer.mean, layer.variance))
            ends = (ends - mean) / np.maximum(np.sqrt(variance), 1e-7)
    width = float(np.median(np.abs(ends[1] - ends[0])))
    normalised = any(isinstance(layer, keras.layers.Normalization) for layer in layers)
    return not layers or (width > _FLAT and not (normalised and width > _WIDE))


def _off_batch_norm(model: keras.Model, name: str, pixels: NDArray[np.uint8]) -> float | None:
    """How many times the first convolution's answers are off its batch norm's; None: no telling."""
    layers = list(_leaves(model))
    convolutions = [i for i, one in enumerate(layers) if isinstance(one, keras.layers.Conv2D)]
    at = convolutions[0] if convolutions else len(layers)
    if at + 1 >= len(layers) or not isinstance(layers[at + 1], keras.layers.BatchNormalization):
        return None
    convolution, norm = layers[at], layers[at + 1]
    mean, variance = np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)
    if not mean.any() and (variance == 1).all():
        return None  # never trained
    scale, offset = RANGES[name]
    inputs = pixels[..., : convolution.kernel.shape[2]].astype(np.float32) * scale + offset
    if convolution.data_format != "channels_last" or norm.axis not in (-1, 3):
        return None
    answers = np.asarray(convolution(inputs)).reshape(-1, len(mean))
    saw, sees = np.sqrt(np.maximum(variance, 1e-12)), np.maximum(answers.std(0), 1e-12)
    wide = np.median(np.abs(np.log(sees / saw)))
    aside = np.median(np.abs(answers.mean(0) - mean) / saw)
    return float(max(np.exp(wide), aside))


def gives_probabilities(answers: NDArray[np.float32]) -> bool:
    """Whether answers [N, C] of one network look like shares of 1."""
    inside = bool((answers >= -1e-6).all() and (answers <= 1 + 1e-6).all())
    return inside and bool(np.allclose(answers.sum(1), 1, atol=1e-3))
