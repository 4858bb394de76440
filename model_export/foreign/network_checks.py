"""What a network from elsewhere says of its own input and output, against what its user says.

Layers that rescale or normalise pixels tell which pixels a network takes; a first batch norm tells
what its convolution answered in training. So a wrong `--input-range` is noticed before a model is
made of it that answers nonsense.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imagecensus.model_export.common.errors import UserError

# What pixels of 0 to 255 become; the flag's values.
RANGES = {"0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0), "0..255": (1.0, 0.0)}
_FLAT = 0.1  # wide: no network takes pixels whose black and white are as near as that
_WIDE = 100.0  # behind a normalisation: deviations between black and white
_FARTHEST = 300.0  # between black and white
_FAR, _NEAR = 30.0, 4.0  # times that batch norm's deviations may be off: surely wrong, maybe right


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstLayers:
    """What a network does with pixels before anything else.

    Attributes:
      names: of the layers that scale them; () for none.
      scale, offset: float64 [3] or [1], what those layers make of a pixel.
      normalises: they divide by deviations that were seen in training.
      answers: the first convolution, float32 [N, H, W, C] -> [M, channels]; None where it is not
        known what its answers were in training.
      mean, variance: float [channels] of those answers in training.
    """

    names: tuple[str, ...] = ()
    scale: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.ones(1))
    offset: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(1))
    normalises: bool = False
    answers: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
    mean: NDArray[np.float32] | None = None
    variance: NDArray[np.float32] | None = None


class Network(Protocol):
    """A classifier from elsewhere; `KerasFile` and `GraphFile` say what the attributes are."""

    @property
    def source(self) -> str: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def classes(self) -> int: ...
    @property
    def ending(self) -> str: ...
    def infer(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def first_layers(self) -> FirstLayers: ...


def check_input_range(
    first: FirstLayers, source: str, chosen: str, pixels: NDArray[np.uint8], channels: bool = False
) -> None:
    """Compares a network's own layers with the range that its user names.

    Args:
      first: what the network does first, with pixels [N, H, W, 1 or 3].
      source: its file, for the message.
      chosen: one of `RANGES`.
      pixels: uint8 [N, H, W, 1 or 3] of images with some structure.
      channels: the range is changed further for each channel, by --mean and --std.

    Raises:
      UserError: they contradict each other.
    """
    if channels:
        return
    if first.names:
        fitting = [name for name in RANGES if _fits_layers(first, name)]
        if chosen in fitting:
            return
        named = ", ".join(repr(name) for name in first.names)
        remedy = f"; say --input-range {fitting[0]}" if len(fitting) == 1 else ""
        raise UserError(
            f"{source}: scales pixels itself (layer {named}), so that --input-range {chosen} would"
            f" scale them twice or not at all{remedy}"
        )
    off = {name: _off_batch_norm(first, name, pixels) for name in RANGES}
    found = off[chosen]
    better = [name for name, value in off.items() if value is not None and value < _NEAR]
    if found is not None and found > _FAR and better:
        raise UserError(
            f"{source}: --input-range {chosen} gives its first convolution answers {found:,.0f}"
            f" times off those that its batch norm saw in training; {' or '.join(better)} fits"
        )


def check_normalisation(chosen: str, means: Sequence[float], deviations: Sequence[float]) -> None:
    """Compares --mean and --std with the range that they are of.

    Raises:
      UserError: a mean lies outside of it, or black and white become as good as equal, or farther
        apart than in any network.
    """

    def fits(name: str) -> bool:
        scale, offset = RANGES[name]
        inside = all(offset <= mean <= 255 * scale + offset for mean in means)
        return inside and all(_FLAT < 255 * scale / std < _FARTHEST for std in deviations)

    if not fits(chosen):
        fitting = [name for name in RANGES if fits(name)]
        remedy = f"; say --input-range {' or '.join(fitting)}" if fitting else ""
        raise UserError(f"--mean and --std are not of pixels of {chosen}{remedy}")


def _fits_layers(first: FirstLayers, name: str) -> bool:
    """Whether black and white stay different, and not by too much, behind the first layers."""
    width = float(np.median(np.abs(255 * RANGES[name][0] * first.scale)))
    return width > _FLAT and not (first.normalises and width > _WIDE)


def _off_batch_norm(first: FirstLayers, name: str, pixels: NDArray[np.uint8]) -> float | None:
    """How many times the first convolution's answers are off its batch norm's; None: no telling."""
    mean, variance = first.mean, first.variance
    if first.answers is None or mean is None or variance is None:
        return None
    if not mean.any() and (variance == 1).all():
        return None  # never trained
    scale, offset = RANGES[name]
    answers = first.answers(pixels.astype(np.float32) * scale + offset)
    saw, sees = np.sqrt(np.maximum(variance, 1e-12)), np.maximum(answers.std(0), 1e-12)
    wide = np.median(np.abs(np.log(sees / saw)))
    aside = np.median(np.abs(answers.mean(0) - mean) / saw)
    return float(max(np.exp(wide), aside))


def check_size(source: str, sides: Sequence[int | None], image_size: int) -> tuple[int, int]:
    """Height and width of the images that a network takes.

    Args:
      sides: its own, None or 0 where it takes any.
      image_size: what its user says; 0: nothing.

    Raises:
      UserError: neither says it, or they contradict each other.
    """
    height, width = (side or image_size for side in sides)
    if not height or not width:
        raise UserError(f"{source}: takes images of any size; choose with --image-size")
    if image_size and (height, width) != (image_size, image_size):
        raise UserError(
            f"{source}: takes {width}x{height} images, --image-size is {image_size}; leave the flag"
            " out"
        )
    return height, width


def choose_activation(
    source: str,
    answers: NDArray[np.float32],
    *,
    ending: str,
    logits: bool = False,
    probabilities: bool = False,
) -> tuple[str, str]:
    """What has to come behind a network so that it answers with probabilities.

    Args:
      source: its file, for messages.
      answers: float32 [N, classes], what it says of some images; of one class, that of the second
        of two labels.
      ending: what its answers went through last: "softmax", "sigmoid", "linear"; "" if unknown.
      logits, probabilities: what its user says that the answers are.

    Returns:
      "softmax", "sigmoid" or "" for nothing; and a note for its user, or "".

    Raises:
      UserError: the network contradicts what its user says.
    """
    if logits and ending in ("softmax", "sigmoid"):
        raise UserError(f"--logits: {source} ends with a {ending} already; leave the flag out")
    if logits and probabilities:
        raise UserError("--probabilities and --logits exclude each other")
    inside = bool((answers >= -1e-6).all() and (answers <= 1 + 1e-6).all())
    if probabilities and not inside:
        raise UserError(
            f"--probabilities: {source} gives answers from {answers.min():.3g} to"
            f" {answers.max():.3g}; leave the flag out"
        )
    added = "softmax" if answers.shape[1] > 1 else "sigmoid"
    if logits:
        return added, ""
    if probabilities or ending in ("softmax", "sigmoid"):
        return "", ""
    shares = answers.shape[1] > 1 and np.allclose(answers.sum(1), 1, atol=1e-3)
    if inside and (shares or ending != "linear"):
        return "", ""
    return added, (
        f"{source} ends without a softmax or sigmoid: a {added} was added, as --logits does; if its"
        " answers are probabilities already, say --probabilities"
    )
