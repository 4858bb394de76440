"""`classify --calibrate-on-archive`: an int8 version of the model, made for the images at hand."""

from __future__ import annotations

import os
import sys
import tempfile

from imagecensus.jobs.options.classify import ClassifyOptions
from imagecensus.jobs.quantize import quantize_from
from imagecensus.model_export.common.cache import cache_folder
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.contract import read_contract
from imagecensus.model_export.precision import has_int8


def model_with_int8(options: ClassifyOptions, model: str, present: str) -> str:
    """A model folder with an int8 graph, calibrated on a sample of the inputs.

    It is kept in the cache folder under its digest, so that a rerun of the same dataset takes
    the very same one.

    Args:
      options: of the run.
      model: folder of the model as it is.
      present: digest of the model that the output was created with; "": it is new.

    Raises:
      UserError: nncf is missing, too few images, or the dataset's own int8 version is gone.
    """
    if has_int8(model):
        return model
    contract = read_contract(model)
    models = os.path.join(cache_folder(), "models")
    kept = os.path.join(models, f"int8-{present[:16]}")
    if present and present != contract.digest:
        if os.path.isdir(kept) and read_contract(kept).digest == present:
            return kept
        raise UserError(
            f"{options.output}: was created with another model, and its calibrated int8 version is"
            f" not in {models}; choose another --output, or name that model with --model"
        )
    if present:
        raise UserError(
            f"{options.output}: was begun without --calibrate-on-archive; leave the flag out, or"
            " choose another --output"
        )
    print("calibrating an int8 version of the model, once", file=sys.stderr, flush=True)
    os.makedirs(models, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=models) as folder:
        made = os.path.join(folder, "model")
        digest = quantize_from(
            model,
            made,
            options.inputs,
            uri_column=options.uri_column,
            image_column=options.image_column,
        ).digest
        kept = os.path.join(models, f"int8-{digest[:16]}")
        if not os.path.isdir(kept):
            os.rename(made, kept)
    return kept
