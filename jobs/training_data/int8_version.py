"""The int8 version of a model that was just trained.

It is calibrated on images that the model learned from, and measured on others.
"""

from __future__ import annotations

import numpy as np

from imagecensus.jobs.quantize import quantize_arrays
from imagecensus.model_export.contract import Contract, read_contract
from imagecensus.model_export.quantize import (
    CALIBRATION_IMAGES,
    MEASURED_IMAGES,
    MIN_IMAGES,
    can_quantize,
)
from imagecensus.model_export.training.decoded_images import ArrayCache, Images, decode_images
from imagecensus.model_export.training.labelled_data import LabelledData, subset


def add_int8_version(directory: str, data: LabelledData, cache: ArrayCache) -> tuple[Contract, str]:
    """Quantises a trained model in place, where nncf is there and the images are enough.

    Args:
      directory: of the exported model.
      data: what it was trained on.
      cache: for the decoded images.

    Returns:
      its contract, and why there is none ("": there is one).
    """
    contract = read_contract(directory)
    held_out = "test" if len(data.splits["test"]) >= MIN_IMAGES else "val"
    counts = [len(data.splits[name]) for name in ("train", held_out)]
    if min(counts) < MIN_IMAGES:
        return (
            contract,
            f"{counts[0]} images to calibrate with and {counts[1]} held out are too few",
        )
    if not can_quantize():
        return contract, "nncf is not installed (pip install imagecensus[quantize])"

    def decode(name: str, most: int) -> Images:
        split = data.splits[name]
        rows = np.random.default_rng(0).permutation(len(split))[:most]
        chosen = subset(split, sorted(rows.tolist()))
        return decode_images(
            chosen, contract.preprocess, cache, f"int8-{name}", max_broken_rate=1.0
        )

    calibration, judged = decode("train", CALIBRATION_IMAGES), decode(held_out, MEASURED_IMAGES)
    if min(len(calibration), len(judged)) < MIN_IMAGES:
        return contract, "too few readable images"
    made = quantize_arrays(
        directory,
        directory,
        calibration=calibration.take(np.arange(len(calibration))),
        held_out=judged.take(np.arange(len(judged))),
        truth=judged.labels,
    )
    return made, ""
