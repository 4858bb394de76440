"""A whole training: data in, evaluated and exported model out.

The order of work: find the images, build the network (every refusal happens by here), decode,
fit, evaluate, export. A pretrained trunk is frozen first: its features are computed once and only
the head is fitted on them, in seconds; fine-tuning then goes on with its last blocks, for which
the activations of the frozen blocks are computed once as well. A trunk without weights is fitted
whole.

What a training leaves beside the model folder, in `MODEL_DIR.training/`: the state that a killed
run resumes from, TensorBoard logs, the history, the answers for each image, and the report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted, format_size
from imagecensus.model_export.contract import Contract, add_metrics, check_target
from imagecensus.model_export.default_model import make_golden_images
from imagecensus.model_export.export import EMBEDDING_LAYER, export_classifier, normalize
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.trained_images import collect_trained_images
from imagecensus.model_export.training import evaluation
from imagecensus.model_export.training.classifier import (
    Classifier,
    ClassifierSpec,
    build_classifier,
    check_fine_tuning,
)
from imagecensus.model_export.training.decoded_images import (
    ArrayCache,
    Broken,
    Images,
    StreamedImages,
    decode_images,
)
from imagecensus.model_export.training.duplicates import (
    DUPLICATES_FILE,
    Duplicates,
    add_unseen,
    describe_duplicates,
    find_duplicates,
    write_duplicates,
)
from imagecensus.model_export.training.features import (
    EVALUATION_BATCH,
    TrainingRun,
    TrainingSpec,
    fit_all,
    image_inputs,
)
from imagecensus.model_export.training.fit import make_strategy, predict
from imagecensus.model_export.training.labelled_data import LabelledData, subset
from imagecensus.model_export.training.report import write_training_report
from imagecensus.model_export.training.splits import DataError, Split
from imagecensus.model_export.training.work_folder import (
    PREDICTIONS_FILE,
    describe_training,
    open_work,
    remove_state,
    write_history,
    write_predictions,
)
from imagecensus.model_export.verify import compare_in_fresh_process, encode_png, readable_in_graph

_PROOF_IMAGES = 32
_NOTES = 20
_LEFT_OUT = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training answers with."""

    contract: Contract
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    broken: tuple[Broken, ...]
    seconds: dict[str, float]


def train(
    data: LabelledData,
    spec: TrainingSpec,
    directory: str,
    *,
    work: str,
    cache: ArrayCache,
    fresh: bool = False,
    say: Callable[[str], object] = print,
    progress: bool = True,
    replicas: int = 0,
) -> Trained:
    """Trains, evaluates and exports a classifier.

    Args:
      data: what to train on.
      spec: how.
      directory: of the exported model.
      work: folder of the training's state; where it holds an unfinished training of the same
        data and spec, that one goes on.
      cache: bounds of the decoded images.
      fresh: throws an earlier state away.
      say: called with a line about each step.
      progress: show bars on a terminal, a line per epoch elsewhere.
      replicas: how many devices at most; 0 takes all.

    Raises:
      UserError: what cannot be trained as asked; before anything is decoded where possible.
    """
    check_target(directory)
    provenance = describe_training(data, spec)
    open_work(work, provenance, fresh)
    # The same training gives the same model: its salt is a digest, unlike any other training's.
    salt = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).digest()[:16]
    strategy = make_strategy(replicas)
    run = TrainingRun(
        spec=spec, strategy=strategy, work=work, cache=cache, say=say, progress=progress
    )
    classifier = _build(data, run)
    steps = Stopwatch()
    with steps.measure("decode"):
        images, duplicates = _decode_splits(data, run, salt)
    say_streamed(images, steps.seconds["decode"], say)
    broken = _say_left_out(images, say)
    with steps.measure("fit"), streaming_errors(images):
        history = fit_all(classifier, images, run)
    with steps.measure("evaluate"):
        model = _plain_float32(spec.classifier, classifier.model)
        answers, metrics = _evaluate(model, images, spec.classifier.preprocess)
    write_history(os.path.join(work, "history.csv"), history)
    write_predictions(os.path.join(work, PREDICTIONS_FILE), data.labels, images, answers)
    with steps.measure("export"):
        training = {
            **provenance,
            "replicas": run.strategy.num_replicas_in_sync,
            "left_out": len(broken),
            "duplicates": duplicates.counts,
        }
        decoded = Decoded(data=data, images=images, answers=answers, salt=salt)
        contract = _export(model, run, decoded, training=training, metrics=metrics)
        _replace(os.path.join(work, "model"), directory)
    trained = Trained(
        contract=contract,
        metrics=contract.metrics,
        history=history,
        broken=broken,
        seconds=steps.seconds,
    )
    _report(trained, decoded, work)
    remove_state(work)
    return trained


def _report(trained: Trained, decoded: Decoded, work: str) -> None:
    shown = "test" if len(decoded.images["test"]) else "train"
    write_training_report(
        work,
        contract=trained.contract,
        history=trained.history,
        split_name=shown,
        images=decoded.images[shown],
        probabilities=decoded.answers[shown],
        broken=trained.broken,
        seconds=trained.seconds,
    )


class Stopwatch:
    """`seconds` of each step that was measured."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoded:
    """The data, its decoded images and the trained model's answers for them.

    Attributes:
      data: as it was found.
      images: by split.
      answers: by split; float32 [N, classes].
      salt: of the hashes of files.
    """

    data: LabelledData
    images: dict[str, Images]
    answers: dict[str, np.ndarray]
    salt: bytes


def _build(data: LabelledData, run: TrainingRun) -> Classifier:
    """Says what is trained on, and builds the network. Raises UserError."""
    spec = run.spec
    keras.utils.set_random_seed(spec.head.seed)
    for note in data.notes[:_NOTES]:
        run.say(f"note: {note}")
    if len(data.notes) > _NOTES:
        run.say(f"note: and {len(data.notes) - _NOTES} more of this kind")
    run.say(
        f"{data.source}: {data.summary()}\n"
        f"{counted(run.strategy.num_replicas_in_sync, 'replica')}, global batch"
        f" {spec.head.batch_size}"
    )
    keras.mixed_precision.set_global_policy(spec.precision)
    with run.strategy.scope():
        classifier = build_classifier(spec.classifier)
    if spec.fine_tune_blocks and not spec.frozen_trunk:
        raise UserError(
            f"--fine-tune {spec.fine_tune_blocks}: a trunk without pretrained weights is trained"
            " whole already; leave the flag out, or name its --weights"
        )
    if spec.fine_tune_blocks:
        check_fine_tuning(classifier.backbone, spec.fine_tune_blocks)
    return classifier


def _decode_splits(
    data: LabelledData, run: TrainingRun, salt: bytes
) -> tuple[dict[str, Images], Duplicates]:
    """Decodes all splits, and says which images are in two of them or in two classes."""
    images = {name: _decode(split, run, name, salt) for name, split in data.splits.items()}
    trained = set(images["train"].labels.tolist())
    for class_id, label in enumerate(data.labels):
        if class_id not in trained:
            raise DataError(
                f"{data.source}: none of the training images of class {label!r} can be read; copy"
                " them again, or take the class out"
            )
    duplicates = find_duplicates(images, data.labels)
    path = os.path.join(run.work, DUPLICATES_FILE)
    write_duplicates(path, duplicates)
    if duplicates.rows:
        run.say(f"{describe_duplicates(duplicates)}; {path} lists them")
    return images, duplicates


def _decode(split: Split, run: TrainingRun, name: str, salt: bytes) -> Images:
    hidden = None if run.progress else True
    with tqdm(total=len(split), desc=f"decode {name}", disable=hidden) as bar:
        return decode_images(
            split,
            run.spec.classifier.preprocess,
            run.cache,
            name,
            max_broken_rate=run.spec.max_broken_rate,
            progress=bar.update,
            salt=salt,
        )


def _evaluate(
    model: keras.Model, images: dict[str, Images], preprocess: PreprocessSpec
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The model's answers by split, float32 [N, classes], and their metrics."""
    with streaming_errors(images):
        answers = {
            name: predict(model, image_inputs(split, preprocess), EVALUATION_BATCH)
            for name, split in images.items()
        }
    metrics = {
        name: evaluation.evaluate(answers[name], split.labels) for name, split in images.items()
    }
    return answers, add_unseen(metrics, images, answers)


def _export(
    model: keras.Model,
    run: TrainingRun,
    decoded: Decoded,
    *,
    training: dict[str, Any],
    metrics: dict[str, Any],
) -> Contract:
    """Exports into the work folder, and compares with the trained model in a fresh process."""
    spec, images = run.spec, decoded.images
    directory = os.path.join(run.work, "model")
    trained = [images[name].hashes for name in ("train", "val")]
    export_classifier(
        model,
        spec.classifier.preprocess,
        decoded.data.labels,
        directory,
        name=spec.name,
        golden_images=_make_golden_images(images, spec.classifier.preprocess),
        training=training,
        metrics=metrics,
        trained_images=collect_trained_images(
            decoded.salt, *((hashes["content"], hashes["size"]) for hashes in trained)
        ),
    )
    proof = _prove(model, spec.classifier.preprocess, decoded, directory)
    return add_metrics(directory, export=proof)


def _say_left_out(images: dict[str, Images], say: Callable[[str], object]) -> tuple[Broken, ...]:
    broken = tuple(image for split in images.values() for image in split.broken)
    for image in broken[:_LEFT_OUT]:
        say(f"left out: {image.name}: {image.status}: {image.message}")
    return broken


def say_streamed(images: dict[str, Images], seconds: float, say: Callable[[str], object]) -> None:
    """Says which splits are larger than the caches, and what rate a pass over them has here."""
    total = sum(len(split) for split in images.values())
    for name, split in images.items():
        if isinstance(split, StreamedImages):
            size = format_size(len(split) * math.prod(split.spec.shape))
            say(
                f"{name}: {size} of pixels fit neither --cache-memory nor --cache-disk:"
                f" {counted(len(split), 'image')} read and decoded again in each pass, about"
                f" {total / max(seconds, 1e-9):,.0f} images/s here"
            )


@contextlib.contextmanager
def streaming_errors(images: dict[str, Images]) -> Iterator[None]:
    """TensorFlow wraps what its input raises: this raises the cause, a DataError, instead."""
    try:
        yield
    except tf.errors.OpError:
        for split in images.values():
            if isinstance(split, StreamedImages) and split.failures:
                raise DataError(split.failures[0]) from None
        raise


def _prove(
    model: keras.Model, preprocess: PreprocessSpec, decoded: Decoded, directory: str
) -> dict[str, Any]:
    """A fresh process's answers for real images, against the trained model's; see `verify`."""
    images = decoded.images
    name = "test" if len(images["test"]) else "train"
    split = images[name]
    chosen: list[int] = []
    encoded: list[bytes] = []
    spread = np.linspace(0, len(split) - 1, min(len(split), 4 * _PROOF_IMAGES)).astype(int)
    candidates = subset(decoded.data.splits[name], split.rows[spread])
    for index, read in zip(spread, candidates.open(), strict=True):
        content = read()
        if readable_in_graph(content):
            chosen.append(int(index))
            encoded.append(content)
        if len(chosen) == _PROOF_IMAGES:
            break
    if not chosen:  # only turned or unusual files: their pixels will do
        chosen = spread[:_PROOF_IMAGES].tolist()
        encoded = [encode_png(image) for image in split.take(np.asarray(chosen))]
    pixels = split.take(np.asarray(chosen, int))
    embed = keras.Model(model.input, model.get_layer(EMBEDDING_LAYER).output)
    vectors = embed.predict(normalize(pixels, preprocess), verbose=0)
    answers = decoded.answers[name][chosen]
    return compare_in_fresh_process(directory, pixels, encoded, answers, vectors)


def _replace(source: str, target: str) -> None:
    """Moves a folder to where another may be."""
    if os.path.isdir(target):
        shutil.rmtree(target)
    os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    shutil.move(source, target)


def _plain_float32(spec: ClassifierSpec, trained: keras.Model) -> keras.Model:
    """The trained classifier without strategy and mixed precision, for evaluation and export."""
    weights = trained.get_weights()
    keras.mixed_precision.set_global_policy("float32")
    model = build_classifier(spec, load_weights=False).model
    model.set_weights(weights)
    return model


def _make_golden_images(images: dict[str, Images], preprocess: PreprocessSpec) -> np.ndarray:
    """uint8 [G, H, W, 3]: an image of each of the first classes, and a generated one."""
    split = images["test"] if len(images["test"]) else images["train"]
    first = [np.flatnonzero(split.labels == label)[0] for label in np.unique(split.labels)]
    chosen = split.take(np.asarray(first[:3]))
    return np.concatenate([chosen, make_golden_images(preprocess, 1)])
