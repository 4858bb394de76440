"""`imagecensus quantize [MODEL] --images PLACE --output MODEL8`: a model's faster int8 version.

A sample of the images calibrates it; others, which it never saw, measure what it loses. The
folder that comes out answers in float32 as before, and `classify --precision auto` takes int8
where the measured loss allows it.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("quantize")

import concurrent.futures
import dataclasses
import json
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecensus.jobs.options.quantize import PARENT, QuantizeOptions
from imagecensus.jobs.predict import model_folder
from imagecensus.model_export.common.cores import usable_cores
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.contract import Contract, Pixels, read_contract
from imagecensus.model_export.image_formats import ImageError
from imagecensus.model_export.precision import judge_int8
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.quantize import (
    CALIBRATION_IMAGES,
    MEASURED_IMAGES,
    can_quantize,
    describe_int8,
    quantize_model,
)
from imagecensus.model_export.safety import check_graph
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.decoders.look_into import read_reference
from imagecensus.transforms.engines.precision import load_infer
from imagecensus.transforms.engines.race import race
from imagecensus.transforms.image_ref import MAX_BYTES, ImageRef
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.records import OUTPUT_COLUMNS

# A sample is drawn from so many images at the beginning of the listing.
_LOOKED_AT = 50_000
_SEED = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Decoded images.

    Attributes:
      pixels: uint8 [N, H, W, 3].
      truth: class ids int64 [N], -1 where unknown.
      unreadable: how many of the drawn images were left out.
    """

    pixels: Pixels
    truth: NDArray[np.int64]
    unreadable: int


def main(options: QuantizeOptions) -> int:
    """Quantises and prints the figures; returns the exit code."""
    if not can_quantize():
        raise UserError("nncf is not installed; pip install imagecensus[quantize]")
    model = model_folder(options.model, options.weights)
    if not options.trust_model:
        check_graph(model)
    contract = quantize_from(model, options.output, (options.images,), options.labels)
    allowed, reason = judge_int8(contract)
    if options.json:
        figures = {"model": options.output, "digest": contract.digest, "auto_takes_int8": allowed}
        print(json.dumps({**figures, **contract.metrics["int8"]}))
        return 0
    print(describe_int8(contract))
    print(f"--precision=auto takes {'int8' if allowed else 'f32'}: {reason}")
    print(f"{options.output}: {contract.name}, digest {contract.digest[:12]}")
    return 0


def quantize_from(
    model: str,
    output: str,
    inputs: tuple[str, ...],
    labels: str = "",
    *,
    uri_column: str = "",
    image_column: str = "",
) -> Contract:
    """`quantize_model` on a sample of whatever `classify` takes as inputs.

    Raises:
      UserError: too few readable images, labels that the model does not have.
    """
    contract = read_contract(model)
    rows = _draw(inputs, uri_column, image_column)
    sample = _decode(rows, contract, labels)
    if sample.unreadable:
        print(f"left out: {counted(sample.unreadable, 'unreadable image')}", file=sys.stderr)
    if labels and not (sample.truth >= 0).any():
        raise UserError(
            f"--labels {labels}: none of the images' labels is one of the model's, as"
            f" {contract.labels[0]!r}"
        )
    cut = min(CALIBRATION_IMAGES, len(sample.pixels) // 2)
    return quantize_arrays(
        model,
        output,
        calibration=sample.pixels[:cut],
        held_out=sample.pixels[cut:],
        truth=sample.truth[cut:] if labels else None,
    )


def quantize_arrays(
    model: str,
    output: str,
    *,
    calibration: Pixels,
    held_out: Pixels,
    truth: NDArray[np.int64] | None,
) -> Contract:
    """`quantize_model` with our own engine; see there."""
    return quantize_model(
        model,
        output,
        calibration=calibration,
        held_out=held_out,
        truth=truth,
        load=load_infer,
        race=race,
    )


def _draw(inputs: tuple[str, ...], uri_column: str, image_column: str) -> list[dict[str, Any]]:
    """References drawn at random, the same on every run, from the listing's beginning."""
    rows: list[dict[str, Any]] = []
    for batch in list_images(inputs, uri_column, image_column):
        rows += [row for row in batch.to_pylist() if not row.get("status")]
        if len(rows) >= _LOOKED_AT:
            break
    rng = np.random.default_rng(_SEED)
    wanted = min(len(rows), CALIBRATION_IMAGES + MEASURED_IMAGES)
    return [rows[index] for index in rng.permutation(len(rows))[:wanted]]


def _decode(rows: list[dict[str, Any]], contract: Contract, labels: str) -> Sample:
    with lease(), concurrent.futures.ThreadPoolExecutor(2 * usable_cores()) as pool:
        done = list(pool.map(lambda row: _pixels(row, contract.preprocess), rows))
    good = [(row, pixels) for row, pixels in zip(rows, done, strict=True) if pixels is not None]
    ids = {label: index for index, label in enumerate(contract.labels)}
    truth = [_label(row, labels) for row, _ in good]
    none = np.zeros((0, *contract.preprocess.shape), np.uint8)
    return Sample(
        pixels=np.stack([pixels for _, pixels in good]) if good else none,
        truth=np.array([ids.get(label, -1) for label in truth], np.int64),
        unreadable=len(rows) - len(good),
    )


def _pixels(row: dict[str, Any], spec: PreprocessSpec) -> NDArray[np.uint8] | None:
    out = np.empty(spec.shape, np.uint8)
    try:
        ref = ImageRef.of(row)
        with lease() as decoders:
            decoders.decode(read_reference(ref, MAX_BYTES), spec, out)
    except ImageError:
        return None
    return out


def _label(row: dict[str, Any], labels: str) -> str:
    if not labels:
        return ""
    if labels == PARENT:
        uri: str = row["uri"]
        return os.path.basename(os.path.dirname(uri.rpartition("#")[2]))
    name = labels.removeprefix("column:")
    # The listing renames columns whose names are the table's own.
    name = name if name not in OUTPUT_COLUMNS else f"manifest_{name}"
    if name not in row:
        raise UserError(f"--labels {labels}: the manifest has no such column")
    return str(row[name])
