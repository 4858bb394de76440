"""`imagecensus export MODEL.keras --labels FILE --output MODEL_DIR`: bring your own classifier.

Wraps a Keras classifier that was trained elsewhere as a model folder that the batch job reads:
preprocessing, labels, signatures and golden images, proved in a fresh process like a model that
`imagecensus train` made.
"""

from __future__ import annotations

import dataclasses
import math
import os

from imagecensus.jobs.command.options import argument, option, parse_options
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.foreign.keras_file import last_activation, load_keras
from imagecensus.model_export.foreign.labels import read_labels

# --input-range, as `network_checks.RANGES`, which needs Keras.
_RANGES = ("0..1", "-1..1", "0..255")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of an export."""

    model: str = argument("Keras classifier: .keras or .h5", metavar="MODEL")
    output: str = option(None, "model folder to write", required=True, metavar="MODEL_DIR")
    labels: str = option(
        None, "a label per line, or JSON: a list, or {class id: label}", required=True
    )
    input_range: str = option(
        None, "what the network takes pixels as", required=True, choices=_RANGES
    )
    mean: str = option(
        "",
        "taken away behind --input-range: a number, or one for red, green, blue",
        metavar="R,G,B",
    )
    std: str = option("", "what is divided by behind --mean", metavar="R,G,B")
    logits: bool = option(False, "the network ends without a softmax: add one")
    probabilities: bool = option(
        False, "its answers are probabilities, although its last layer is no softmax or sigmoid"
    )
    image_size: int = option(0, "pixels a side, where the network takes any")
    resize: str = option(
        "bilinear", "filter", choices=("nearest", "bilinear", "bicubic", "lanczos")
    )
    crop: str = option("none", "none: squeeze the whole image", choices=("none", "center"))
    name: str = option("", "of the model; default: the file's name")
    images: str = option(
        None, "images of the model's kind: make an int8 twin, see `imagecensus quantize`",
        metavar="PLACE",
    )  # fmt: skip


def main(argv: list[str]) -> int:
    """Exports; returns the exit code."""
    options = parse_options(
        ExportOptions, argv, "imagecensus export", "Make a model folder of a Keras classifier."
    )
    labels = read_labels(options.labels)
    if os.path.isdir(options.model):
        raise UserError(
            f"{options.model}: is a folder; expected a Keras file (.keras or .h5), as model.save"
            " writes it"
        )
    if not os.path.isfile(options.model):
        raise UserError(f"{options.model}: no such file")
    import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401

    # isort: split
    import numpy as np

    from imagecensus.jobs.quantize import quantize_from
    from imagecensus.model_export.default_model import make_golden_images
    from imagecensus.model_export.export import check_target, export_classifier, normalize
    from imagecensus.model_export.quantize import can_quantize, describe_int8
    from imagecensus.model_export.verify import check_model

    if options.images and not can_quantize():
        raise UserError("--images: nncf is not installed; pip install imagecensus[quantize]")
    check_target(options.output)
    model, color = _wrap(load_keras(options.model), options, len(labels))
    outputs = model.output_shape[-1]
    if outputs != len(labels):
        raise UserError(
            f"{options.labels}: {len(labels)} labels, but {options.model} has {outputs} outputs;"
            " name each output once, in the network's order"
        )
    spec = _preprocess(model.input_shape[1:3], color, options)
    images = make_golden_images(spec)
    contract = export_classifier(
        model,
        spec,
        labels,
        options.output,
        name=options.name or os.path.splitext(os.path.basename(options.model))[0],
        golden_images=images,
        training={"file": os.path.basename(options.model)},
    )
    sums = np.asarray(model(normalize(images, spec), training=False)).sum(1)
    findings = check_model(options.output)
    for finding in findings:
        print(f"{'ok' if finding.ok else 'FAILED':<7}{finding.check}: {finding.detail}")
    if np.abs(sums - 1).max() > 1e-3:
        print(
            "note: the scores of an image do not add up to 1: the network judges each class on"
            " its own"
        )
    print(f"{options.output}: {contract.name}, {len(labels)} classes")
    if options.images:
        print(describe_int8(quantize_from(options.output, options.output, (options.images,))))
    return 0 if all(finding.ok for finding in findings) else 1


def _check_ending(model, options: ExportOptions, labels: int, pixels) -> None:
    """Raises UserError where the network's last layer contradicts the labels or the flags.

    `pixels` are normalised images.
    """
    import numpy as np

    from imagecensus.model_export.foreign.network_checks import gives_probabilities

    ending = last_activation(model)
    if model.output_shape[-1] == 1 and labels == 1:
        raise UserError(
            f"{options.labels}: one label, so that every image would be that label; name both"
            " classes, first the one for an output of 0"
        )
    if options.logits and ending in ("softmax", "sigmoid"):
        raise UserError(
            f"--logits: {options.model} ends with a {ending} already; leave the flag out"
        )
    answers = np.asarray(model(pixels, training=False))
    inside = bool((answers >= 0).all() and (answers <= 1).all())
    if options.probabilities and (options.logits or not inside):
        raise UserError(
            f"--probabilities: {options.model} gives answers from {answers.min():.3g} to"
            f" {answers.max():.3g}; leave the flag out"
            if not inside
            else "--probabilities and --logits exclude each other"
        )
    if not options.logits and not options.probabilities and ending == "linear":
        flag = "--probabilities" if gives_probabilities(answers) else "--logits"
        raise UserError(
            f"{options.model}: its last layer is no softmax or sigmoid, and its answers"
            f" {'add up to 1' if flag == '--probabilities' else 'are no scores'}; add {flag}"
        )


def _check_network(model, options: ExportOptions, labels: int, size) -> None:
    """Raises UserError where the network contradicts what its user says of it."""
    from imagecensus.model_export.default_model import make_golden_images
    from imagecensus.model_export.export import normalize
    from imagecensus.model_export.foreign.network_checks import check_input_range

    channels = model.input_shape[3]
    spec = _preprocess(size, "rgb" if channels == 3 else "grey", options)
    images = make_golden_images(spec)
    _check_ending(model, options, labels, normalize(images, spec)[..., :channels])
    changed = bool(options.mean or options.std)
    check_input_range(model, options.model, options.input_range, images, changed)


def _wrap(model, options: ExportOptions, labels: int):
    """The model on three channels, with its embedding named; and the colour it wants."""
    import keras

    from imagecensus.model_export.export import EMBEDDING_LAYER

    shapes = model.input_shape, model.output_shape
    if not all(isinstance(shape, tuple) for shape in shapes):
        raise UserError(f"{options.model}: has several inputs or outputs; expected one of each")
    if len(shapes[0]) != 4 or shapes[0][3] not in (1, 3) or len(shapes[1]) != 2:
        raise UserError(
            f"{options.model}: takes {shapes[0]} and answers {shapes[1]}; expected images"
            " [N, height, width, 1 or 3] and scores [N, classes]"
        )
    size = [options.image_size or side for side in shapes[0][1:3]]
    if None in size:
        raise UserError(f"{options.model}: takes images of any size; choose with --image-size")
    if any(fixed and fixed != side for fixed, side in zip(shapes[0][1:3], size, strict=True)):
        raise UserError(
            f"{options.model}: takes {shapes[0][2]}x{shapes[0][1]} images, --image-size is"
            f" {options.image_size}; leave the flag out"
        )
    _check_network(model, options, labels, size)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    embedding = (dense or model.layers)[-1].input
    inner = keras.Model(model.inputs, [model.outputs[0], embedding])
    images = keras.Input((*size, 3))
    scores, features = inner(images if shapes[0][3] == 3 else images[..., :1])
    if shapes[1][1] == 1 and labels == 2:
        # One output, the second label's probability p: the scores are 1 - p and p.
        if options.logits:
            scores = keras.ops.sigmoid(scores)
        scores = keras.ops.concatenate([1 - scores, scores], axis=1)
    elif options.logits:
        scores = keras.layers.Softmax()(scores)
    named = keras.layers.Identity(name=EMBEDDING_LAYER)(features)
    # The embedding is read off the model by name: it has to hang in its graph.
    scores = keras.layers.Lambda(lambda both: both[0])([scores, named])
    return keras.Model(images, scores), "rgb" if shapes[0][3] == 3 else "grey"


def _numbers(flag: str, text: str, default: float) -> list[float]:
    """Three numbers of `--mean` or `--std`. Raises UserError."""
    words = text.split(",") if text else [str(default)]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    bad = flag == "--std" and not all(number > 0 for number in numbers)
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)) or bad:
        raise UserError(
            f"{flag} {text}: expected a number, or three with commas between them, as"
            " 0.485,0.456,0.406" + (", above 0" if bad else "")
        )
    return numbers * (3 // len(numbers))


def _preprocess(size, color: str, options: ExportOptions):
    """The spec for images of that height and width."""
    from imagecensus.model_export.foreign.network_checks import RANGES
    from imagecensus.model_export.preprocess import PreprocessSpec

    scale, offset = RANGES[options.input_range]
    if options.mean or options.std:
        means = _numbers("--mean", options.mean, 0.0)
        deviations = _numbers("--std", options.std, 1.0)
        offset = tuple((offset - mean) / std for mean, std in zip(means, deviations, strict=True))
        scale = tuple(scale / std for std in deviations)
    height, width = size
    try:
        return PreprocessSpec(
            height=height,
            width=width,
            color=color,
            resize=options.resize,
            crop=options.crop,
            scale=scale,
            offset=offset,
        )
    except ValueError as error:
        raise UserError(str(error)) from None


if __name__ == "__main__":
    from imagecensus.jobs.cli import command

    command("export")
