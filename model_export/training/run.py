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
import csv
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import format_size
from imagecensus.model_export.common.version import __version__
from imagecensus.model_export.contract import Contract, add_metrics
from imagecensus.model_export.default_model import make_golden_images
from imagecensus.model_export.export import (
    EMBEDDING_LAYER,
    check_target,
    export_classifier,
    normalize,
)
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.trained_images import collect_trained_images
from imagecensus.model_export.training import evaluation
from imagecensus.model_export.training.augment import Augmentation, augment
from imagecensus.model_export.training.classifier import (
    Classifier,
    ClassifierSpec,
    build_classifier,
    check_fine_tuning,
    split_for_fine_tuning,
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
    add_unseen,
    describe_duplicates,
    find_duplicates,
    write_duplicates,
)
from imagecensus.model_export.training.fit import (
    FitSpec,
    Inputs,
    class_weights,
    fit,
    make_strategy,
    predict,
)
from imagecensus.model_export.training.labelled_data import LabelledData, subset
from imagecensus.model_export.training.report import write_training_report
from imagecensus.model_export.training.splits import DataError, uri_of_name
from imagecensus.model_export.verify import compare_in_fresh_process, encode_png, readable_in_graph

RUN_FILE = "run.json"
PREDICTIONS_FILE = "predictions.parquet"
_EVALUATION_BATCH = 64
_PROOF_IMAGES = 32
_NOTES = 20
_WINDOW = 2048  # images whose activations are in memory at once


@dataclasses.dataclass(frozen=True)
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


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training answers with."""

    contract: Contract
    metrics: dict
    history: list[dict]
    broken: tuple[Broken, ...]
    seconds: dict[str, float]


def train(
    data: LabelledData,
    spec: TrainingSpec,
    directory: str,
    work: str,
    cache: ArrayCache,
    fresh: bool = False,
    say: Callable[[str], None] = print,
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
      say: told each step.
      progress: show bars on a terminal, a line per epoch elsewhere.
      replicas: how many devices at most; 0 takes all.

    Raises:
      UserError: what cannot be trained as asked; before anything is decoded where possible.
    """
    check_target(directory)
    seconds: dict[str, float] = {}
    provenance = _provenance(data, spec)
    _open_work(work, provenance, fresh)
    keras.utils.set_random_seed(spec.head.seed)
    strategy = make_strategy(replicas)
    replicas = strategy.num_replicas_in_sync
    for note in data.notes[:_NOTES]:
        say(f"note: {note}")
    if len(data.notes) > _NOTES:
        say(f"note: and {len(data.notes) - _NOTES} more of this kind")
    say(
        f"{data.source}: {data.summary()}\n{replicas} replica(s), global batch"
        f" {spec.head.batch_size}"
    )
    keras.mixed_precision.set_global_policy(spec.precision)
    with strategy.scope():
        classifier = build_classifier(spec.classifier)
    if spec.fine_tune_blocks and not spec.frozen_trunk:
        raise UserError(
            f"--fine-tune {spec.fine_tune_blocks}: a trunk without pretrained weights is trained"
            " whole already; leave the flag out, or name its --weights"
        )
    if spec.fine_tune_blocks:
        check_fine_tuning(classifier.backbone, spec.fine_tune_blocks)
    trained_model = classifier.model

    # The same training gives the same model: its salt is a digest, unlike any other training's.
    salt = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).digest()[:16]
    started = time.perf_counter()
    images = {
        name: _decode(split, spec, cache, name, progress, salt)
        for name, split in data.splits.items()
    }
    duplicates = find_duplicates(images, data.labels)
    path = os.path.join(work, DUPLICATES_FILE)
    write_duplicates(path, duplicates)
    if duplicates.rows:
        say(f"{describe_duplicates(duplicates)}; {path} lists them")
    seconds["decode"] = time.perf_counter() - started
    say_streamed(images, seconds["decode"], say)
    broken = tuple(b for split in images.values() for b in split.broken)
    for image in broken[:10]:
        say(f"left out: {image.name}: {image.status}: {image.message}")

    started = time.perf_counter()
    with streaming_errors(images):
        history = fit_all(classifier, images, spec, strategy, work, cache, say, progress)
    seconds["fit"] = time.perf_counter() - started

    started = time.perf_counter()
    model = _plain_float32(spec.classifier, trained_model)
    with streaming_errors(images):
        answers = {
            name: predict(model, image_inputs(split, spec.classifier.preprocess), _EVALUATION_BATCH)
            for name, split in images.items()
        }
    metrics = {
        name: evaluation.evaluate(answers[name], split.labels) for name, split in images.items()
    }
    metrics = add_unseen(metrics, images, answers)
    seconds["evaluate"] = time.perf_counter() - started
    _write_history(os.path.join(work, "history.csv"), history)
    write_predictions(os.path.join(work, PREDICTIONS_FILE), data.labels, images, answers)

    started = time.perf_counter()
    staged = os.path.join(work, "model")
    export_classifier(
        model,
        spec.classifier.preprocess,
        data.labels,
        staged,
        name=spec.name,
        golden_images=_make_golden_images(images, spec.classifier.preprocess),
        training={
            **provenance,
            "replicas": replicas,
            "left_out": len(broken),
            "duplicates": duplicates.counts,
        },
        metrics=metrics,
        trained_images=collect_trained_images(
            salt,
            *(
                (images[part].hashes["content"], images[part].hashes["size"])
                for part in ("train", "val")
            ),
        ),
    )
    proof = _prove(model, spec.classifier.preprocess, data, images, answers, staged)
    contract = add_metrics(staged, export=proof)
    _replace(staged, directory)
    seconds["export"] = time.perf_counter() - started
    shown = "test" if len(images["test"]) else "train"
    write_training_report(
        work, contract, history, shown, images[shown], answers[shown], broken, seconds
    )
    for name in ("state", "cache"):
        shutil.rmtree(os.path.join(work, name), ignore_errors=True)
    return Trained(contract, contract.metrics, history, broken, seconds)


def say_streamed(images: dict[str, Images], seconds: float, say: Callable[[str], None]) -> None:
    """Says which splits are larger than the caches, and what rate a pass over them has here."""
    total = sum(len(split) for split in images.values())
    for name, split in images.items():
        if isinstance(split, StreamedImages):
            size = format_size(len(split) * int(np.prod(split.spec.shape)))
            say(
                f"{name}: {size} of pixels fit neither --cache-memory nor --cache-disk: the"
                f" {len(split):,} images are read and decoded again in each pass, about"
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


def _prove(model, preprocess, data: LabelledData, images, answers, directory: str) -> dict:
    """A fresh process's answers for real images, against the trained model's; see `verify`."""
    name = "test" if len(images["test"]) else "train"
    split, chosen, encoded = images[name], [], []
    spread = np.linspace(0, len(split) - 1, min(len(split), 4 * _PROOF_IMAGES)).astype(int)
    candidates = subset(data.splits[name], split.rows[spread])
    for index, read in zip(spread, candidates.open(), strict=True):
        content = read()
        if readable_in_graph(content):
            chosen.append(index)
            encoded.append(content)
        if len(chosen) == _PROOF_IMAGES:
            break
    if not chosen:  # only turned or unusual files: their pixels will do
        chosen = list(spread[:_PROOF_IMAGES])
        encoded = [encode_png(image) for image in split.take(np.asarray(chosen))]
    pixels = split.take(np.asarray(chosen, int))
    embed = keras.Model(model.input, model.get_layer(EMBEDDING_LAYER).output)
    vectors = embed.predict(normalize(pixels, preprocess), verbose=0)
    return compare_in_fresh_process(directory, pixels, encoded, answers[name][chosen], vectors)


def _replace(source: str, target: str) -> None:
    """Moves a folder to where another may be."""
    if os.path.isdir(target):
        shutil.rmtree(target)
    os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    shutil.move(source, target)


def image_inputs(
    images: Images, preprocess: PreprocessSpec, augmentation: Augmentation | None = None
) -> Inputs:
    """Images as a network's inputs, augmented where training asks for it."""

    def prepare(pixels, seed):
        if augmentation and seed is not None:
            pixels = augment(pixels, augmentation, seed)
        return normalize(pixels, preprocess)

    return Inputs(images.take, images.labels, prepare, np.uint8, preprocess.shape)


def feature_inputs(features: np.ndarray, labels: np.ndarray) -> Inputs:
    """Features computed before, as a head's inputs."""
    return Inputs(
        lambda indices: features[indices],
        labels,
        lambda items, seed: items,
        np.float32,
        features.shape[1:],
    )


def _decode(
    split, spec: TrainingSpec, cache: ArrayCache, name: str, progress: bool, salt: bytes
) -> Images:
    from tqdm import tqdm

    with tqdm(total=len(split), desc=f"decode {name}", disable=None if progress else True) as bar:
        return decode_images(
            split,
            spec.classifier.preprocess,
            cache,
            name,
            spec.max_broken_rate,
            progress=bar.update,
            salt=salt,
        )


def fit_all(
    classifier: Classifier, images, spec: TrainingSpec, strategy, work, cache, say, progress
):
    """Fits head and trunk in the order that the spec asks for; returns the history."""
    train, val = images["train"], images["val"]
    preprocess = spec.classifier.preprocess
    weights = None
    if spec.balance_classes:
        weights = class_weights(train.labels, spec.classifier.classes)

    def fit_phase(phase, model, inputs, validation, fit_spec):
        say(f"{phase}: {len(inputs)} examples, {fit_spec.epochs} epochs at most")
        entries = fit(
            model,
            inputs,
            validation,
            fit_spec,
            strategy,
            os.path.join(work, "state", f"{phase}.npz"),
            weights,
            log_dir=os.path.join(work, "tensorboard", phase),
            verbose=progress,
        )
        return [{"phase": phase, **entry} for entry in entries]

    if not spec.frozen_trunk:
        return fit_phase(
            "network",
            classifier.model,
            image_inputs(train, preprocess, spec.augmentation),
            image_inputs(val, preprocess),
            spec.head,
        )
    classifier.backbone.trunk.trainable = False
    lower, name, tuning = classifier.backbone.trunk, "features", None
    if spec.fine_tune_blocks:
        with strategy.scope():
            tuning = split_for_fine_tuning(classifier, spec.fine_tune_blocks)
        lower, name = tuning.lower, "activations"
    inputs = [
        compute_features(lower, split, spec, passes, f"{name}-{part}", cache)
        for part, split, passes in (("train", train, spec.feature_passes), ("val", val, 1))
    ]
    features = inputs
    if tuning:  # the head's features come from the activations, in a fraction of the time
        features = [
            features_of_activations(tuning.tail, each, f"features-{part}", cache)
            for part, each in zip(("train", "val"), inputs, strict=True)
        ]
    history = fit_phase("head", classifier.head, *features, spec.head)
    if tuning:
        history += fit_phase("fine-tune", tuning.upper, *inputs, spec.fine_tune)
    return history


def compute_features(model, images: Images, spec: TrainingSpec, passes: int, name: str, cache):
    """What a frozen network makes of the images, computed once: [passes * N, ...].

    The first pass sees the images as they are, the others augmented.
    """
    count, shape = len(images), model.output_shape[1:]
    features = cache.allocate(name, (passes * count, *shape), np.float32)
    preprocess = spec.classifier.preprocess
    for index in range(passes):
        augmentation = spec.augmentation if index else None
        for start in range(0, count, _WINDOW):
            stop = min(start + _WINDOW, count)
            window = dataclasses.replace(images, rows=images.rows[start:stop],
                                         labels=images.labels[start:stop])  # fmt: skip
            seed = int(np.random.default_rng([spec.head.seed, index, start]).integers(2**31))
            features[index * count + start : index * count + stop] = predict(
                model, image_inputs(window, preprocess, augmentation), _EVALUATION_BATCH, seed
            )
    return feature_inputs(features, np.tile(images.labels, passes))


def features_of_activations(tail, activations: Inputs, name: str, cache: ArrayCache) -> Inputs:
    """What the last blocks, as they are now, make of the activations below them: [N, D]."""
    count = len(activations)
    features = cache.allocate(name, (count, *tail.output_shape[1:]), np.float32)
    for start in range(0, count, _WINDOW):
        rows = np.arange(start, min(start + _WINDOW, count))
        window = dataclasses.replace(
            activations,
            take=lambda indices, rows=rows: activations.take(rows[indices]),
            labels=activations.labels[rows],
        )
        features[rows] = predict(tail, window, _EVALUATION_BATCH)
    return feature_inputs(features, activations.labels)


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


def _provenance(data: LabelledData, spec: TrainingSpec) -> dict:
    """What the contract says of the training, and what a resumed run must have in common."""
    digest = hashlib.sha256(json.dumps(data.labels).encode())
    for name, split in data.splits.items():
        for image, label in zip(split.names, split.labels, strict=True):
            digest.update(f"{name}\0{os.path.basename(image)}\0{label}\n".encode())
    settings = dataclasses.asdict(spec)
    weights = spec.classifier.backbone.weights
    if os.path.isfile(weights):
        # A contract travels: it names the file, not where it lay.
        with open(weights, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
        named = f"{os.path.basename(weights)} (sha256 {content[:16]})"
        settings["classifier"]["backbone"]["weights"] = named
    facts = {
        "data": os.path.basename(os.path.normpath(data.source)),
        "data_digest": digest.hexdigest(),
        "images": {name: len(split) for name, split in data.splits.items()},
        "spec": settings,
        "versions": {
            "imagecensus": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }
    return json.loads(json.dumps(facts))


def _open_work(work: str, provenance: dict, fresh: bool) -> None:
    """Makes the work folder, or checks that it holds the same training."""
    path = os.path.join(work, RUN_FILE)
    if fresh:
        shutil.rmtree(work, ignore_errors=True)
    state = os.path.join(work, "state")
    if os.path.isdir(state) and os.listdir(state) and os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            earlier = json.load(file)
        different = sorted(_differences(earlier, provenance))
        if different:
            raise UserError(
                f"{work}: holds an unfinished training that differs in {', '.join(different)};"
                " repeat its command to resume it, or add --fresh to throw it away"
            )
        return
    os.makedirs(work, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(provenance, file, indent=1)


def _differences(one, other, path: str = ""):
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    elif one != other:
        yield f"{path.removeprefix('spec.')} ({one} there, {other} now)"


def _write_history(path: str, history: list[dict]) -> None:
    columns = ["phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def write_predictions(path: str, labels, images: dict[str, Images], answers) -> None:
    """The trainer's answer for each image, to be compared with the batch job's rows.

    Columns: split, uri, label (true), predicted, score.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"split": [], "uri": [], "label": [], "predicted": [], "score": []}
    for name, split in images.items():
        best = answers[name].argmax(1) if len(split) else []
        columns["split"] += [name] * len(split)
        columns["uri"] += map(uri_of_name, split.names)
        columns["label"] += [labels[i] for i in split.labels]
        columns["predicted"] += [labels[i] for i in best]
        columns["score"] += [float(answers[name][row, i]) for row, i in enumerate(best)]
    pq.write_table(pa.table(columns), path)
