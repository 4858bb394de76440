"""What a network is fitted on, and the order in which head and trunk are fitted.

A pretrained trunk is frozen first: its features are computed once and only the head is fitted on
them; fine-tuning goes on with its last blocks, for which the activations of the frozen blocks are
computed once as well. A trunk without weights is fitted whole.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.export import normalize
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.training.augment import CHANGES, Augmentation, augment, draw_changes
from imagecensus.model_export.training.classifier import (
    Classifier,
    ClassifierSpec,
    FineTuning,
    split_for_fine_tuning,
)
from imagecensus.model_export.training.decoded_images import ArrayCache, Images
from imagecensus.model_export.training.fit import (
    FitSpec,
    Inputs,
    Prepare,
    class_weights,
    fit,
    predict,
)

EVALUATION_BATCH = 64
_WINDOW = 2048  # images whose activations are in memory at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """Everything that the trained weights depend on, apart from the images."""

    classifier: ClassifierSpec
    head: FitSpec
    fine_tune_blocks: int = 0
    fine_tune: FitSpec = FitSpec(epochs=10, learning_rate=1e-4)
    augmentation: Augmentation = Augmentation()
    feature_passes: int = 1  # over the training images; those after the first are augmented
    balance_classes: bool = False
    precision: str = "float32"  # or "mixed_float16", "mixed_bfloat16": of the arithmetic
    max_broken_rate: float = 0.05
    name: str = "classifier"

    @property
    def frozen_trunk(self) -> bool:
        return self.classifier.backbone.pretrained


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One training: what it is, where it runs, and what it reports to.

    Attributes:
      spec: everything that the weights depend on.
      strategy: over the devices.
      work: folder of the training's state.
      cache: bounds of the decoded images and of computed features.
      say: called with each line about the progress.
      progress: show bars on a terminal, a line per epoch elsewhere.
    """

    spec: TrainingSpec
    strategy: tf.distribute.Strategy
    work: str
    cache: ArrayCache
    say: Callable[[str], object] = print
    progress: bool = True


def image_inputs(
    images: Images, preprocess: PreprocessSpec, augmentation: Augmentation | None = None
) -> Inputs:
    """Images as a network's inputs, augmented where training asks for it."""

    def draw(seed: Any, count: int) -> Any:
        return draw_changes(augmentation or Augmentation(), seed, count, preprocess.shape[:2])

    def prepare(pixels: Any, changes: Any) -> Any:
        if augmentation and changes is not None:
            pixels = augment(pixels, augmentation, changes)
        return normalize(pixels, preprocess)

    return Inputs(
        take=images.take,
        labels=images.labels,
        prepare=Prepare(draw=draw, apply=prepare, changes=CHANGES),
        dtype=np.uint8,
        shape=preprocess.shape,
    )


def feature_inputs(features: np.ndarray, labels: np.ndarray) -> Inputs:
    """Features computed before, as a head's inputs."""
    return Inputs(
        take=lambda indices: features[indices],
        labels=labels,
        dtype=np.float32,
        shape=features.shape[1:],
    )


def fit_all(
    classifier: Classifier, images: dict[str, Images], run: TrainingRun
) -> list[dict[str, Any]]:
    """Fits head and trunk in the order that the spec asks for.

    Args:
      classifier: built in the strategy's scope; fitted in place.
      images: the splits "train" and "val".
      run: the training.

    Returns:
      An entry per epoch, as `fit` returns them, each with its `phase`.
    """
    spec, preprocess = run.spec, run.spec.classifier.preprocess
    train, val = images["train"], images["val"]
    weights = None
    if spec.balance_classes:
        weights = class_weights(train.labels, spec.classifier.classes)

    def fit_phase(
        phase: str, model: keras.Model, inputs: tuple[Inputs, Inputs], fit_spec: FitSpec
    ) -> list[dict[str, Any]]:
        run.say(
            f"{phase}: {counted(len(inputs[0]), 'example')},"
            f" {counted(fit_spec.epochs, 'epoch')} at most"
        )
        entries = fit(
            model,
            *inputs,
            fit_spec,
            strategy=run.strategy,
            state_file=os.path.join(run.work, "state", f"{phase}.npz"),
            weights=weights,
            log_dir=os.path.join(run.work, "tensorboard", phase),
            verbose=run.progress,
        )
        return [{"phase": phase, **entry} for entry in entries]

    if not spec.frozen_trunk:
        inputs = (image_inputs(train, preprocess, spec.augmentation), image_inputs(val, preprocess))
        return fit_phase("network", classifier.model, inputs, spec.head)
    classifier.backbone.trunk.trainable = False
    if not spec.fine_tune_blocks:
        features = _features_of_splits(classifier.backbone.trunk, images, run, "features")
        return fit_phase("head", classifier.head, features, spec.head)
    with run.strategy.scope():
        tuning = split_for_fine_tuning(classifier, spec.fine_tune_blocks)
    activations = _features_of_splits(tuning.lower, images, run, "activations")
    # The head's features come from the activations, in a fraction of the time.
    features = _through_tail(tuning, activations, run.cache)
    history = fit_phase("head", classifier.head, features, spec.head)
    return history + fit_phase("fine-tune", tuning.upper, activations, spec.fine_tune)


def _features_of_splits(
    network: keras.Model, images: dict[str, Images], run: TrainingRun, name: str
) -> tuple[Inputs, Inputs]:
    """Of the training images in each pass that the spec asks for, and of the validation images."""
    train, val = images["train"], images["val"]
    return (
        compute_features(network, train, run, f"{name}-train", run.spec.feature_passes),
        compute_features(network, val, run, f"{name}-val"),
    )


def _through_tail(
    tuning: FineTuning, activations: tuple[Inputs, Inputs], cache: ArrayCache
) -> tuple[Inputs, Inputs]:
    train, val = activations
    return (
        features_of_activations(tuning.tail, train, "features-train", cache),
        features_of_activations(tuning.tail, val, "features-val", cache),
    )


def compute_features(
    model: keras.Model, images: Images, run: TrainingRun, name: str, passes: int = 1
) -> Inputs:
    """What a frozen network makes of the images, computed once: float32 [passes * N, ...].

    The first pass sees the images as they are, the others augmented.
    """
    spec, count, shape = run.spec, len(images), model.output_shape[1:]
    features = run.cache.allocate(name, (passes * count, *shape), np.float32)
    preprocess = spec.classifier.preprocess
    inputs = image_inputs(images, preprocess, spec.augmentation)
    for index in range(passes):
        for rows in _windows(count):
            seed = int(np.random.default_rng([spec.head.seed, index, rows[0]]).integers(2**31))
            features[index * count + rows] = predict(
                model, _window(inputs, rows), EVALUATION_BATCH, seed if index else None
            )
    return feature_inputs(features, np.tile(images.labels, passes))


def features_of_activations(
    tail: keras.Model, activations: Inputs, name: str, cache: ArrayCache
) -> Inputs:
    """What the last blocks, as they are now, make of the activations below them: [N, D]."""
    count = len(activations)
    features = cache.allocate(name, (count, *tail.output_shape[1:]), np.float32)
    for rows in _windows(count):
        features[rows] = predict(tail, _window(activations, rows), EVALUATION_BATCH)
    return feature_inputs(features, activations.labels)


def _windows(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, _WINDOW):
        yield np.arange(start, min(start + _WINDOW, count))


def _window(inputs: Inputs, rows: np.ndarray) -> Inputs:
    return dataclasses.replace(
        inputs, take=lambda indices: inputs.take(rows[indices]), labels=inputs.labels[rows]
    )
