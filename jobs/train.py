r"""`imagecensus train DATA --output MODEL_DIR`: train a classifier on labelled images.

A pretrained MobileNet-V2 with a new head is the default and what photos want:

    imagecensus train photos --output model

Without downloaded weights, a small network learns a few visually distinct classes in a minute:

    imagecensus train shapes --output model --weights none --alpha 0.35 --image-size 64 \
        --epochs 20 --learning-rate 0.01 --schedule cosine --patience 0

(`--weights none` also makes batch norm's running averages settle within such a short training; a
high rate that falls to zero, and no early stop, let it use each of its few epochs.)
"""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("train")

import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401  before TensorFlow

# isort: split
import dataclasses
import logging
import os
import shutil
import warnings

import tensorflow as tf

from imagecensus.jobs.options.train import TrainOptions
from imagecensus.jobs.training_data.int8_version import add_int8_version
from imagecensus.jobs.training_data.sources import read_training_data
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.contract import check_target
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.quantize import describe_int8
from imagecensus.model_export.training.augment import Augmentation
from imagecensus.model_export.training.backbones import BackboneSpec, default_preprocess
from imagecensus.model_export.training.classifier import ClassifierSpec
from imagecensus.model_export.training.decoded_images import ArrayCache
from imagecensus.model_export.training.features import TrainingSpec
from imagecensus.model_export.training.fit import FitSpec
from imagecensus.model_export.training.labelled_data import LabelledData, SplitFractions
from imagecensus.model_export.training.run import Trained, train
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.decoders.pool import Pool


def main(options: TrainOptions) -> int:
    """Trains, evaluates and exports; returns the exit code."""
    # TensorFlow's notes on devices and assets, and Keras' on data streams, are not for the user.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="keras")
    with lease() as decoders:
        _train(options, decoders)
    return 0


def _train(options: TrainOptions, decoders: Pool) -> None:
    data = read_training_data(
        options.data,
        SplitFractions(val=options.val_fraction, test=options.test_fraction, seed=options.seed),
        options.label_column,
        options.path_column,
        options.split_column,
        decoders=decoders,
    )
    run = _train_each_crop if options.crop == "best" else _train_model
    trained = run(options, data)
    work = _work_of(options.output)
    _print_summary(trained, options.output, work)
    if not options.no_int8:
        _add_int8(options, data, work)


def _work_of(output: str) -> str:
    """The folder of a training's logs, report and caches."""
    return os.path.normpath(output) + ".training"


def _train_each_crop(options: TrainOptions, data: LabelledData) -> Trained:
    """Trains on squeezed and on cropped images; the model is the one better on validation."""
    output = os.path.normpath(options.output)
    check_target(output)  # the better one takes its place
    tried = {crop: f"{output}.{crop}" for crop in ("none", "center")}
    trained = {
        crop: _train_model(dataclasses.replace(options, crop=crop, output=folder), data)
        for crop, folder in tried.items()
    }
    accuracy = {crop: run.metrics["val"].get("accuracy", 0.0) for crop, run in trained.items()}
    better = max(accuracy, key=lambda crop: accuracy[crop])
    figures = ", ".join(f"{crop} {value:.4f}" for crop, value in accuracy.items())
    print(f"accuracy on validation by crop: {figures}; kept: {better}")
    for folder, kept in ((output, tried[better]), (_work_of(output), _work_of(tried[better]))):
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(kept, folder)
    for crop in tried.keys() - {better}:
        shutil.rmtree(tried[crop])
        shutil.rmtree(_work_of(tried[crop]))
    return trained[better]


def _train_model(options: TrainOptions, data: LabelledData) -> Trained:
    spec = training_spec(options, len(data.labels))
    work = _work_of(options.output)
    cache = ArrayCache(
        directory=os.path.join(work, "cache"),
        memory_bytes=options.cache_memory,
        disk_bytes=options.cache_disk,
    )
    return train(
        data,
        spec,
        options.output,
        work=work,
        cache=cache,
        fresh=options.fresh,
        say=(lambda line: None) if options.quiet else print,
        progress=not options.quiet,
        replicas=options.replicas,
    )


def training_spec(options: TrainOptions, classes: int) -> TrainingSpec:
    """The trainer's own terms for the options.

    Raises:
      UserError: a backbone, head or augmentation that does not exist.
    """
    backbone = BackboneSpec(
        name=options.backbone,
        alpha=options.alpha,
        weights=options.weights,
        trust=options.trust_model,
    )
    preprocess = default_preprocess(backbone, options.image_size, options.color)
    augmentation = Augmentation.parse(options.augment)
    head = FitSpec(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        schedule=options.schedule,
        label_smoothing=options.label_smoothing,
        patience=options.patience,
        seed=options.seed,
        average=options.average_weights,
    )
    return TrainingSpec(
        classifier=ClassifierSpec(
            backbone=backbone,
            preprocess=_preprocess(preprocess, options),
            classes=classes,
            hidden=_hidden(options.hidden),
            dropout=options.dropout,
        ),
        head=head,
        fine_tune_blocks=options.fine_tune,
        fine_tune=dataclasses.replace(
            head, epochs=options.fine_tune_epochs, learning_rate=options.fine_tune_rate
        ),
        augmentation=augmentation,
        feature_passes=options.feature_passes or (4 if augmentation else 1),
        balance_classes=options.balance_classes,
        precision=_precision(options.mixed_precision),
        max_broken_rate=options.max_broken_rate,
        name=options.name or os.path.basename(os.path.normpath(options.output)),
    )


def _preprocess(spec: PreprocessSpec, options: TrainOptions) -> PreprocessSpec:
    """The backbone's own, with the crop that was asked for."""
    if options.crop == "none":
        return spec
    return dataclasses.replace(spec, crop="center", crop_fraction=0.875)


def _add_int8(options: TrainOptions, data: LabelledData, work: str) -> None:
    folder = os.path.join(work, "cache")
    cache = ArrayCache(
        directory=folder, memory_bytes=options.cache_memory, disk_bytes=options.cache_disk
    )
    contract, lack = add_int8_version(options.output, data, cache)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"no int8 version: {lack}" if lack else describe_int8(contract))


def _hidden(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdigit() and int(word) for word in words):
        raise UserError(f"--hidden {text}: expected numbers of units, e.g. 512,256")
    return tuple(map(int, words))


def _precision(choice: str) -> str:
    if choice == "auto":
        choice = "float16" if tf.config.list_physical_devices("GPU") else "off"
    return {"off": "float32"}.get(choice, f"mixed_{choice}")


def _print_summary(trained: Trained, output: str, work: str) -> None:
    for split, figures in trained.metrics.items():
        if figures.get("examples"):
            print(
                f"{split:<6} {counted(figures['examples'], 'image'):>13}   accuracy"
                f" {figures['accuracy']:.4f}   loss {figures['loss']:.4f}   macro F1"
                f" {figures['macro_f1']:.4f}"
            )
        unseen = figures.get("unseen", {})
        if unseen:
            result = f"accuracy {unseen['accuracy']:.4f}" if unseen["examples"] else "none is left"
            print(
                f"{'':<6} {unseen['examples']:>6,} of them without the images that it was trained"
                f" with: {result}"
            )
    proof = trained.metrics["export"]
    print(
        f"exported model against the trained one, {counted(proof['images'], 'image')} in a fresh"
        " process:"
        f" serving_default {proof['serving_default']:.1e}, embed {proof['embed']:.1e};"
        f" serving_bytes {proof['serving_bytes']['largest']:.1e} at most,"
        f" {proof['serving_bytes']['mean']:.1e} on average"
    )
    times = ", ".join(f"{name} {value:.1f} s" for name, value in trained.seconds.items())
    print(f"{times}\nmodel: {output}\nlogs and report: {work}")
    if trained.broken:
        print(f"{counted(len(trained.broken), 'image')} could not be read: left out")
