"""Augmentation: random changes to training images that leave their label true.

Every change is a function of a seed alone, so that a training killed and resumed sees the same
images, whatever the number of threads and devices. It is drawn as a few numbers for each image,
and a device can do the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from imagecensus.model_export.common.errors import UserError

CHANGES = 10  # numbers that say what happens to an image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far each change may go; zero leaves it out.

    Attributes:
      flip: mirror left and right, half of the time.
      rotation: degrees, either way.
      zoom: share of the size, in or out.
      shift: share of the size, along each axis.
      brightness: share of the full range, either way.
      contrast: factor within [1 - contrast, 1 + contrast].
    """

    flip: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __bool__(self) -> bool:
        return self != Augmentation()

    @classmethod
    def parse(cls, text: str) -> Augmentation:
        """From 'flip,rotation=15,zoom=0.2'; empty is none.

        Raises:
          UserError: an unknown word, or a size out of range.
        """
        values: dict[str, Any] = {}
        problems = []
        limits = {"rotation": 180, "zoom": 0.9, "shift": 0.9, "brightness": 1, "contrast": 1}
        for word in filter(None, (word.strip() for word in text.split(","))):
            name, _, value = word.partition("=")
            try:
                if name == "flip" and not value:
                    values[name] = True
                elif 0 <= float(value) <= limits[name]:
                    values[name] = float(value)
                else:
                    problems.append(f"{word}: at most {limits[name]}")
            except (KeyError, ValueError):
                problems.append(f"{word!r}")
        if problems:
            raise UserError(
                f"--augment: {', '.join(problems)}; expected e.g."
                " flip,rotation=15,zoom=0.2,shift=0.1,brightness=0.2,contrast=0.2"
            )
        return cls(**values)


def draw_changes(augmentation: Augmentation, seed: Any, count: int, size: tuple[int, int]) -> Any:
    """What happens to each image of a batch: float32 [count, CHANGES], for `augment`.

    Args:
      augmentation: what may happen.
      seed: int tensor [2]; the same seed changes the same batch in the same way.
      count: of images.
      size: their height and width.
    """
    import tensorflow as tf

    def uniform(salt: int, low: float, high: float) -> Any:
        key = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int64), salt)
        return tf.random.stateless_uniform([count], key, low, high)

    transforms = _transforms(augmentation, uniform, size)
    contrast = uniform(5, 1 - augmentation.contrast, 1 + augmentation.contrast)
    limit = 255 * augmentation.brightness
    return tf.concat([transforms, tf.stack([contrast, uniform(6, -limit, limit)], 1)], 1)


def augment(pixels: Any, augmentation: Augmentation, changes: Any) -> Any:
    """Changes each image of a batch in its own way.

    Args:
      pixels: uint8 [N, H, W, 3] tensor.
      augmentation: what may happen.
      changes: of `draw_changes`, float32 [N, CHANGES].

    Returns:
      uint8 [N, H, W, 3].
    """
    import tensorflow as tf

    images = tf.cast(pixels, tf.float32)
    if augmentation.flip or augmentation.rotation or augmentation.zoom or augmentation.shift:
        images = tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=changes[:, :8],
            output_shape=tf.shape(images)[1:3],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="REFLECT",  # no black corners for the network to learn
        )
    contrast, brightness = (changes[:, i, None, None, None] for i in (8, 9))
    if augmentation.contrast:
        mean = tf.reduce_mean(images, [1, 2, 3], keepdims=True)
        images = (images - mean) * contrast + mean
    if augmentation.brightness:
        images += brightness
    images = tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)
    return tf.ensure_shape(images, pixels.shape)


def _transforms(
    augmentation: Augmentation, uniform: Callable[[int, float, float], Any], size: tuple[int, int]
) -> Any:
    """float32 [N, 8]: output to input coordinates, about the centre."""
    import tensorflow as tf

    center_y, center_x = (size[0] - 1) / 2, (size[1] - 1) / 2
    angle = uniform(0, -augmentation.rotation, augmentation.rotation) * (3.141592653589793 / 180)
    zoom = uniform(1, 1 - augmentation.zoom, 1 + augmentation.zoom)
    shift_y = uniform(2, -augmentation.shift, augmentation.shift) * size[0]
    shift_x = uniform(3, -augmentation.shift, augmentation.shift) * size[1]
    mirror = tf.ones_like(zoom)
    if augmentation.flip:
        mirror = tf.where(uniform(4, 0.0, 1.0) < 0.5, -mirror, mirror)
    cos, sin = tf.cos(angle) * zoom, tf.sin(angle) * zoom
    a, b, c, d = cos * mirror, -sin, sin * mirror, cos
    zero = tf.zeros_like(zoom)
    return tf.stack(
        [
            a, b, center_x + shift_x - a * center_x - b * center_y,
            c, d, center_y + shift_y - c * center_x - d * center_y,
            zero, zero,
        ],
        axis=1,
    )  # fmt: skip
