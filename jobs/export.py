"""`imagecensus export MODEL.keras --labels FILE --output MODEL_DIR`: bring your own classifier.

Wraps a Keras classifier that was trained elsewhere as a model folder that the batch job reads:
preprocessing, labels, signatures and golden images, proved in a fresh process like a model that
`imagecensus train` made.
"""

from __future__ import annotations

import dataclasses
import os

from imagecensus.jobs.command.options import argument, option, parse_options
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.foreign.keras_file import last_activation, load_keras
from imagecensus.model_export.foreign.labels import read_labels

# --input-range: scale and offset of the 8-bit pixels.
_RANGES = {"0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0), "0..255": (1.0, 0.0)}


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of an export."""

    model: str = argument("Keras classifier: .keras or .h5", metavar="MODEL")
    output: str = option(None, "model folder to write", required=True, metavar="MODEL_DIR")
    labels: str = option(
        None, "a label per line, or JSON: a list, or {class id: label}", required=True
    )
    input_range: str = option(
        None, "what the network takes pixels as", required=True, choices=tuple(_RANGES)
    )
    logits: bool = option(False, "the network ends without a softmax: add one")
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
    from imagecensus.model_export.export import check_target, export_classifier
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
    spec = _preprocess(model, color, options)
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
    pixels = images.astype(np.float32) * spec.scale + spec.offset
    sums = np.asarray(model(pixels, training=False)).sum(1)
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


def _check_ending(model, options: ExportOptions, labels: int) -> None:
    """Raises UserError where the network's last layer contradicts the labels or the flags."""
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
    if not options.logits and ending == "linear":
        raise UserError(
            f"{options.model}: ends without a softmax or sigmoid, its answers are no scores; add"
            " --logits"
        )


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
    _check_ending(model, options, labels)
    size = [options.image_size or side for side in shapes[0][1:3]]
    if None in size:
        raise UserError(f"{options.model}: takes images of any size; choose with --image-size")
    if any(fixed and fixed != side for fixed, side in zip(shapes[0][1:3], size, strict=True)):
        raise UserError(
            f"{options.model}: takes {shapes[0][2]}x{shapes[0][1]} images, --image-size is"
            f" {options.image_size}; leave the flag out"
        )
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


def _preprocess(model, color: str, options: ExportOptions):
    from imagecensus.model_export.preprocess import PreprocessSpec

    scale, offset = _RANGES[options.input_range]
    height, width = model.input_shape[1:3]
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
