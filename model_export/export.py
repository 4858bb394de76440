"""From a trained Keras classifier to a self-describing SavedModel.

Signatures (names and dtypes as TensorFlow Serving's clients expect them):

  serving_default  images uint8 [N, H, W, 3]  ->  class_ids int32 [N, K], scores float32 [N, K],
                                                  embedding float32 [N, D]
  serving_bytes    image_bytes string [N]     ->  class_ids, scores, labels string [N, K]
  embed            images uint8 [N, H, W, 3]  ->  embedding float32 [N, D]

The variables are frozen to constants held once and shared by the signatures; arithmetic and
top-k are in the graph. `serving_default` carries the embedding too, so that one pass gives both
(OpenVINO's reader takes that signature only).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from imagecensus.model_export.batch_norm import fold_batch_norms
from imagecensus.model_export.common.atomic import atomic_folder
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.common.version import __version__
from imagecensus.model_export.contract import (
    EXPORTED_TOP_K,
    Contract,
    Golden,
    ModelError,
    check_target,
    read_contract,
    write_contract,
)
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.trained_images import TrainedImages, write_trained_images

EMBEDDING_LAYER = "embedding"


def normalize(pixels: tf.Tensor, spec: PreprocessSpec) -> tf.Tensor:
    """uint8 [..., 3] pixels as the float32 that the network takes. Used in training too."""
    return tf.cast(pixels, tf.float32) * spec.scale + spec.offset


def export_classifier(
    model: keras.Model,
    spec: PreprocessSpec,
    labels: list[str] | tuple[str, ...],
    directory: str,
    *,
    name: str,
    golden_images: np.ndarray,
    embedding_layer: str | None = EMBEDDING_LAYER,
    training: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    trained_images: TrainedImages | None = None,
) -> Contract:
    """Exports a classifier; the folder appears whole or not at all.

    Args:
      model: float32 [N, H, W, 3] (already `normalize`d) -> probabilities float32 [N, classes].
      spec: preprocessing the model was trained with.
      labels: one per class.
      directory: must not exist, or be an earlier export, which is replaced.
      name: of the model, for people.
      golden_images: uint8 [G, H, W, 3], non-trivial images; their answers are recorded.
      embedding_layer: name of the layer whose output `[N, D]` (or `[N, h, w, D]`, averaged) is
        the embedding; None takes the input of the last layer.
      training, metrics: provenance for the contract.
      trained_images: which images it was trained on, where that is known.

    Raises:
      ModelError: outputs and labels do not match, or the folder holds something else.
    """
    classes = model.output_shape[-1]
    if classes != len(labels):
        raise ModelError(
            f"{name}: {counted(classes, 'output')} for {counted(len(labels), 'label')}"
        )
    wrong = [label for at, label in enumerate(labels) if label in labels[:at] or "\n" in label]
    if wrong:
        shown = ", ".join(map(repr, wrong[:5]))
        raise ModelError(f"{name}: labels must be unique and without line breaks; not so: {shown}")
    check_target(directory)
    top_k = min(EXPORTED_TOP_K, classes)
    root, embedding_size = _build(model, spec, labels, embedding_layer, top_k)

    with atomic_folder(directory) as partial:
        signatures = {
            "serving_default": root.serving_default,
            "serving_bytes": root.serving_bytes,
            "embed": root.embed,
        }
        # Gradients of swish cannot be saved once the variables are constants; nothing trains on.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(root, partial, signatures=signatures, options=options)
        answers = root.serving_default(tf.constant(golden_images))
        golden = Golden(
            images=golden_images,
            class_ids=answers["class_ids"].numpy(),
            scores=answers["scores"].numpy(),
        )
        contract = Contract(
            name=name,
            preprocess=spec,
            labels=tuple(labels),
            top_k=top_k,
            embedding_size=embedding_size,
            training=training or {},
            metrics=metrics or {},
            package_version=__version__,
        )
        if trained_images is not None:
            write_trained_images(partial, trained_images)
        write_contract(partial, contract, golden)
    return read_contract(directory)


def _build(
    model: keras.Model,
    spec: PreprocessSpec,
    labels: Sequence[str],
    embedding_layer: str | None,
    top_k: int,
) -> tuple[tf.Module, int]:
    """The module with its three traced signatures, and the embedding's length."""
    if embedding_layer is None:
        embedding = model.layers[-1].input
    else:
        embedding = model.get_layer(embedding_layer).output
    both = keras.Model(model.inputs, [model.outputs[0], embedding])
    images_spec = tf.TensorSpec([None, *spec.shape], tf.uint8, name="images")

    @tf.function(input_signature=[images_spec])
    def forward(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        probabilities, features = both(normalize(images, spec), training=False)
        if features.shape.rank == 4:
            features = tf.reduce_mean(features, [1, 2])
        return tf.cast(probabilities, tf.float32), tf.cast(features, tf.float32)

    frozen = convert_variables_to_constants_v2(forward.get_concrete_function())
    frozen = fold_batch_norms(frozen)

    @tf.function(input_signature=[images_spec])
    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities, features = frozen(images)
        scores, class_ids = tf.math.top_k(probabilities, k=top_k)
        return {"class_ids": class_ids, "scores": scores, "embedding": features}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(
            lambda data: _decode_in_graph(data, spec), image_bytes, fn_output_signature=tf.uint8
        )
        images = tf.ensure_shape(images, [None, *spec.shape])
        probabilities, _ = frozen(images)
        scores, class_ids = tf.math.top_k(probabilities, k=top_k)
        return {
            "class_ids": class_ids,
            "scores": scores,
            "labels": tf.gather(tf.constant(list(labels)), class_ids),
        }

    @tf.function(input_signature=[images_spec])
    def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": frozen(images)[1]}

    root = tf.Module()
    root.serving_default = serving_default
    root.serving_bytes = serving_bytes
    root.embed = embed
    return root, int(frozen.outputs[1].shape[-1])


def _decode_in_graph(data: tf.Tensor, spec: PreprocessSpec) -> tf.Tensor:
    """uint8 [H, W, 3] from encoded bytes, as near to `decode_image` as TensorFlow's ops come.

    An image already of the target size (BMP, PNG) passes through exactly; another one differs by
    the rounding of the resize. What stays different: no EXIF orientation, no box reduction before
    the resize of huge images, and TensorFlow reads JPEG, PNG, GIF, BMP and WebP only.
    """
    is_jpeg = tf.equal(tf.strings.substr(data, 0, 3), b"\xff\xd8\xff")
    is_png = tf.equal(tf.strings.substr(data, 0, 4), b"\x89PNG")
    image = tf.cond(
        is_jpeg,
        lambda: _decode_jpeg(data, spec),
        lambda: tf.cond(
            is_png,
            lambda: _decode_png(data),
            lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
        ),
    )
    image.set_shape([None, None, 3])
    if spec.crop == "center":
        size = tf.shape(image)[:2]
        box = tf.minimum(tf.cast(tf.round(_crop_size(size, spec)), tf.int32), size)
        image = tf.slice(image, tf.concat([(size - box) // 2, [0]], 0), tf.concat([box, [3]], 0))
    method = {"lanczos": "lanczos3"}.get(spec.resize, spec.resize)
    resized = tf.image.resize(image, [spec.height, spec.width], method=method, antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
    if spec.color == "grey":
        grey = tf.image.rgb_to_grayscale(image)
        image = tf.repeat(grey, 3, axis=-1)
    return tf.ensure_shape(image, spec.shape)


def _crop_size(size: tf.Tensor, spec: PreprocessSpec) -> tf.Tensor:
    """float32 [2]: height and width of the centred box of the target's aspect."""
    target = tf.constant([spec.height, spec.width], tf.float32)
    return target * tf.reduce_min(tf.cast(size, tf.float32) / target) * spec.crop_fraction


def _decode_jpeg(data: tf.Tensor, spec: PreprocessSpec) -> tf.Tensor:
    """With libjpeg's DCT scaling and accurate transform, as Pillow's `draft` uses them."""

    def decode(ratio: int) -> Callable[[], tf.Tensor]:
        return lambda: tf.io.decode_jpeg(data, 3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    if not spec.dct_margin:
        return decode(1)()
    size = tf.io.extract_jpeg_shape(data)[:2]
    need = tf.constant([spec.height, spec.width], tf.float32) * spec.dct_margin
    if spec.crop == "center":
        need *= tf.cast(size, tf.float32) / _crop_size(size, spec)
    scale = tf.reduce_min(size // tf.cast(need, tf.int32))
    branch = sum(tf.cast(scale >= ratio, tf.int32) for ratio in (2, 4, 8))
    return tf.switch_case(branch, [decode(ratio) for ratio in (1, 2, 4, 8)])


def _decode_png(data: tf.Tensor) -> tf.Tensor:
    """Transparency over white."""
    rgba = tf.cast(tf.io.decode_png(data, 4), tf.float32)
    alpha = rgba[..., 3:] / 255
    return tf.cast(tf.round(rgba[..., :3] * alpha + 255 * (1 - alpha)), tf.uint8)
