"""`imagecensus export FILE --labels FILE --output MODEL_DIR`: bring your own classifier.

Wraps a classifier that was trained elsewhere as a model folder that the batch job reads:
preprocessing, labels and golden images, checked against the network's own answers. Keras files
become a SavedModel; ONNX, TensorFlow Lite and SavedModels an OpenVINO graph, without TensorFlow.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("export")

import dataclasses
import math
import os

import numpy as np

from imagecensus.jobs.options.export import KINDS, ExportOptions
from imagecensus.jobs.quantize import quantize_from
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.placeholders import placeholder
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.contract import EXPORTED_TOP_K, Contract, check_target
from imagecensus.model_export.default_model import make_golden_images
from imagecensus.model_export.export_graph import export_graph
from imagecensus.model_export.foreign.graph_file import (
    GraphFile,
    is_graph_file,
    read_graph,
    read_graph_labels,
)
from imagecensus.model_export.foreign.keras_file import read_keras
from imagecensus.model_export.foreign.labels import read_labels
from imagecensus.model_export.foreign.network_checks import (
    RANGES,
    Network,
    check_input_range,
    check_normalisation,
    choose_activation,
)
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.quantize import can_quantize, describe_int8
from imagecensus.model_export.verify import check_model

_BLUE_FIRST = (
    "{!r} is the name of a network of Keras' whose preprocess_input puts blue first and takes"
    " ImageNet's means away; where the network was trained behind that, export it with --bgr"
    " --input-range 0..255 --mean 123.68,116.779,103.939"
)
_KERAS = (".keras", ".h5", ".hdf5")


def main(options: ExportOptions) -> int:
    """Exports; returns the exit code."""
    if options.images and not can_quantize():
        raise UserError("--images: nncf is not installed; pip install imagecensus[quantize]")
    check_target(options.output)
    is_graph = is_graph_file(options.model)
    if os.path.isdir(options.model) and not is_graph:
        raise UserError(f"{options.model}: is a folder without saved_model.pb; expected {KINDS}")
    if not os.path.isdir(options.model):
        _check_file(options.model)
    labels = _labels(options)
    if is_graph:
        contract, note = _export_graph(options, labels)
    else:
        contract, note = _export_keras(options, labels)
    findings = check_model(options.output)
    for finding in findings:
        print(f"{'ok' if finding.ok else 'FAILED':<7}{finding.check}: {finding.detail}")
    if note:
        print(f"note: {note}")
    print(f"{options.output}: {contract.name}, {counted(len(labels), 'class', 'classes')}")
    if options.images:
        print(describe_int8(quantize_from(options.output, options.output, (options.images,))))
    return 0 if all(finding.ok for finding in findings) else 1


def _check_file(path: str) -> None:
    """Raises UserError: a file is none of a network that is read here, by its name or content."""
    with open(path, "rb") as file:
        said = placeholder(file.read(256))
    if said:
        raise UserError(f"{path}: is {said}")
    if not is_graph_file(path) and not path.lower().endswith(_KERAS):
        raise UserError(
            f"{path}: expected {KINDS}; weights of PyTorch are no network: export it there with"
            " torch.onnx.export"
        )


def _labels(options: ExportOptions) -> list[str]:
    if options.labels:
        return read_labels(options.labels)
    labels = read_graph_labels(options.model)
    if not labels:
        raise UserError(f"{options.model}: carries no labels; name a file of them with --labels")
    return labels


def _export_graph(options: ExportOptions, labels: list[str]) -> tuple[Contract, str]:
    """Of a file that OpenVINO reads; needs no TensorFlow."""

    def read() -> GraphFile:
        file = read_graph(options.model, len(labels), options.image_size)
        return dataclasses.replace(file, blue_first=options.bgr)

    network = read()
    whole = options.input_range == "0..255" and not options.mean and not options.std
    if network.element_type == "u8" and not whole:
        raise UserError(
            f"{options.model}: takes whole numbers from 0 to 255; say --input-range 0..255, without"
            " --mean and --std"
        )
    spec, activation, note = _judge(network, options, labels)
    contract = export_graph(
        read,
        spec,
        labels,
        options.output,
        name=options.name or _name(options.model),
        activation=activation,
        golden_images=make_golden_images(spec),
        top_k=EXPORTED_TOP_K,
        training={"file": os.path.basename(options.model.rstrip("/"))},
    )
    return contract, note


def _export_keras(options: ExportOptions, labels: list[str]) -> tuple[Contract, str]:
    """Of a Keras file, which becomes a SavedModel."""
    import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401

    # isort: split
    from imagecensus.model_export.export import export_classifier

    network = read_keras(options.model, options.image_size)
    network = dataclasses.replace(network, blue_first=options.bgr)
    spec, activation, note = _judge(network, options, labels)
    if network.usually_blue_first and not options.bgr:
        note = "; ".join(filter(None, (note, _BLUE_FIRST.format(network.usually_blue_first))))
    contract = export_classifier(
        network.classifier(activation),
        spec,
        labels,
        options.output,
        name=options.name or _name(options.model),
        golden_images=make_golden_images(spec),
        training={"file": os.path.basename(options.model)},
    )
    return contract, note


def _name(path: str) -> str:
    return os.path.splitext(os.path.basename(path.rstrip("/")))[0]


def _judge(
    network: Network, options: ExportOptions, labels: list[str]
) -> tuple[PreprocessSpec, str, str]:
    """The preprocessing, the activation that the network lacks, and a note for its user.

    Raises:
      UserError: the network contradicts its labels or what its user says of it.
    """
    where = options.labels or options.model
    if network.classes == 1 and len(labels) == 1:
        raise UserError(
            f"{where}: one label, so that every image would be that label; name both classes, first"
            " the one for an output of 0"
        )
    if network.classes == 1 and network.ending == "softmax":
        raise UserError(
            f"{options.model}: ends with a softmax of one output, which is 1 for every image; train"
            " it with a sigmoid, or with an output for each class"
        )
    if options.bgr and network.channels == 1:
        raise UserError(f"{options.model}: takes grey images; leave --bgr out")
    outputs = max(network.classes, 2)
    if outputs != len(labels):
        raise UserError(
            f"{where}: {counted(len(labels), 'label')}, but {options.model} has"
            f" {counted(network.classes, 'output')};"
            " name each output once, in the network's order"
        )
    spec = _preprocess(network, options)
    images = make_golden_images(spec)
    answers = network.infer(spec.normalize(images)[..., : network.channels])
    activation, note = choose_activation(
        options.model,
        answers,
        ending=network.ending,
        logits=options.logits,
        probabilities=options.probabilities,
    )
    changed = bool(options.mean or options.std)
    first = network.first_layers()
    images = images[..., : network.channels]
    check_input_range(first, options.model, options.input_range, images, changed)
    if not activation and network.classes > 1 and np.abs(answers.sum(1) - 1).max() > 1e-3:
        note = "the scores of an image do not add up to 1: the network judges each class on its own"
    return spec, activation, note


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


def _preprocess(network: Network, options: ExportOptions) -> PreprocessSpec:
    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    scale, offset = RANGES[options.input_range]
    if options.mean or options.std:
        means = _numbers("--mean", options.mean, 0.0)
        deviations = _numbers("--std", options.std, 1.0)
        check_normalisation(options.input_range, means, deviations)
        scale, offset = (
            tuple(scale / std for std in deviations),
            tuple((offset - mean) / std for mean, std in zip(means, deviations, strict=True)),
        )
    try:
        return PreprocessSpec(
            height=network.height,
            width=network.width,
            color="rgb" if network.channels == 3 else "grey",
            resize=options.resize,
            crop=options.crop,
            scale=scale,
            offset=offset,
        )
    except ValueError as error:
        raise UserError(str(error)) from None
