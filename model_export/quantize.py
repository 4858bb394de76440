"""Makes the int8 version of a model: nncf's post-training quantisation, calibrated on images.

Needs nncf (`pip install imagecensus[quantize]`); using the int8 version afterwards does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import logging
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imagecensus.model_export.common.atomic import atomic_folder
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.contract import (
    Contract,
    Infer,
    Pixels,
    check_target,
    openvino_source,
    read_contract,
    read_golden,
    write_contract,
)
from imagecensus.model_export.precision import (
    INT8,
    INT8_FOLDER,
    INT8_GOLDEN,
    int8_graph,
    measure_loss,
)

if TYPE_CHECKING:
    import openvino as ov

CALIBRATION_IMAGES = 300
MEASURED_IMAGES = 1000
MIN_IMAGES = 20
_RACED_IMAGES = 64
_BATCH = 2

# (model folder, precision) to the function that answers.
Load = Callable[[str, str], Infer]
# Both functions and pixels to images/s of either.
Race = Callable[[list[Infer], Pixels], list[float]]


def can_quantize() -> bool:
    """Whether nncf is installed."""
    return importlib.util.find_spec("nncf") is not None


def quantize_model(
    directory: str,
    output: str,
    *,
    calibration: Pixels,
    held_out: Pixels,
    truth: NDArray[np.int64] | None,
    load: Load,
    race: Race,
) -> Contract:
    """Writes a copy of a model folder that carries an int8 graph, measured.

    Args:
      directory: of the model.
      output: of the copy; may be `directory`. It appears whole or not at all.
      calibration: uint8 [C, H, W, 3], preprocessed by the model's own spec.
      held_out: uint8 [M, H, W, 3], other images, on which both precisions are compared.
      truth: class ids int [M] of those, -1 where unknown; or None.
      load: loads a model folder in a precision.
      race: measures the speed of several, in turn.

    Returns:
      the contract of the copy, with `metrics["int8"]`.

    Raises:
      UserError: nncf is missing, or there are too few images.
      ModelError: the output holds something else than a model.
    """
    if not can_quantize():
        raise UserError("nncf is not installed; pip install imagecensus[quantize]")
    if len(calibration) < MIN_IMAGES or len(held_out) < MIN_IMAGES:
        raise UserError(
            f"{len(calibration)} images to calibrate with and {len(held_out)} to measure on are too"
            f" few; give at least {2 * MIN_IMAGES} readable images, of the model's kind"
        )
    check_target(output)
    contract, golden = read_contract(directory), read_golden(directory)
    with atomic_folder(output) as partial:
        shutil.copytree(directory, partial, dirs_exist_ok=True)
        shutil.rmtree(os.path.join(partial, INT8_FOLDER), ignore_errors=True)
        os.makedirs(os.path.join(partial, INT8_FOLDER))
        _write_graph(directory, calibration, int8_graph(partial))
        infer = [load(directory, "f32"), load(partial, INT8)]
        class_ids, scores, _ = infer[1](golden.images)
        np.savez_compressed(
            os.path.join(partial, INT8_FOLDER, INT8_GOLDEN), class_ids=class_ids, scores=scores
        )
        answers = [one(held_out) for one in infer]
        loss = measure_loss(answers[0][:2], answers[1][:2], truth)
        rates = race(infer, held_out[:_RACED_IMAGES])
        figures = {
            **dataclasses.asdict(loss),
            "embedding_cosine": _cosine(answers[0][2], answers[1][2]),
            "calibration_images": len(calibration),
            "images_per_second_f32": round(rates[0], 1),
            "images_per_second_int8": round(rates[1], 1),
            "speedup": round(rates[1] / rates[0], 3),
            "nncf": importlib.import_module("nncf").__version__,
        }
        metrics = {**contract.metrics, INT8: figures}
        write_contract(partial, dataclasses.replace(contract, metrics=metrics), golden)
    return read_contract(output)


def describe_int8(contract: Contract) -> str:
    """The measured figures, for people, one line."""
    found = contract.metrics[INT8]
    low, high = found["expected_loss_interval"]
    text = (
        f"int8 against f32 on {counted(found['images'], 'image')}: labels equal"
        f" {found['agreement']:.4f}, expected loss {found['expected_loss'] * 100:.2f} points"
        f" (95 %: {low * 100:.2f} to {high * 100:.2f})"
    )
    if found["accuracy_f32"] is not None:
        text += f", accuracy {found['accuracy_f32']:.4f} to {found['accuracy_int8']:.4f}"
    return (
        f"{text}; inference {found['images_per_second_f32']:,.0f} to"
        f" {found['images_per_second_int8']:,.0f} images/s ({found['speedup']:.2f} times)"
    )


def _write_graph(directory: str, pixels: Pixels, path: str) -> None:
    """nncf's quantisation of the signature `serving_default`, as an OpenVINO file."""
    import openvino as ov

    # nncf draws progress bars and prints its own version on standard output.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import nncf

        logging.getLogger("nncf").setLevel(logging.ERROR)
        graph = ov.Core().read_model(openvino_source(directory))
        rows = graph.input(0).partial_shape[0]
        batch = rows.get_length() if rows.is_static else _BATCH
        graph.reshape([batch, *pixels.shape[1:]])
        whole = len(pixels) - len(pixels) % batch
        batches = [pixels[at : at + batch] for at in range(0, whole, batch)]
        graph = nncf.quantize(
            graph,
            nncf.Dataset(batches),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(batches),
        )
        _start_at_zero(graph)
        ov.save_model(graph, path, compress_to_fp16=False)


def _start_at_zero(graph: ov.Model) -> None:
    """Gives channels behind a ReLU that no calibration image activated the largest range there.

    nncf gives them -0.0008 to 0.0008. One of these is enough to have OpenVINO compute the layer
    with a zero point for each channel, which takes longer; and an image that activates such a
    channel would be cut off at 0.0008.
    """
    from openvino import opset13

    for node in graph.get_ops():
        if node.get_type_name() != "FakeQuantize" or not _is_relu(node.input_value(0).get_node()):
            continue
        low, high = (node.input_value(index).get_node().data for index in (1, 2))
        if (low >= 0).all():
            continue
        high = np.where(low < 0, high.max(), high)
        # nncf's output range is the input range.
        for index, value in enumerate((np.zeros_like(low), high) * 2, start=1):
            node.input(index).replace_source_output(opset13.constant(value).output(0))


def _is_relu(node: ov.Node) -> bool:
    name = node.get_type_name()
    return name == "Relu" or (name == "Clamp" and bool(node.get_attributes()["min"] >= 0))


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The mean cosine of the vectors of the same images."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(1) / np.maximum(norms, 1e-12)).mean())
