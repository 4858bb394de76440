"""The options of `imagecensus quantize`."""

from __future__ import annotations

import dataclasses

from imagecensus.jobs.command.options import Options, argument, option
from imagecensus.transforms.inputs.check import check_inputs

PARENT = "parent"


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeOptions(Options):
    """Makes a model's faster int8 version."""

    model: str = argument(
        "model folder; without it, MobileNet-V2 trained on ImageNet", nargs="?", metavar="MODEL"
    )
    images: str = option(
        None, "folder, archive or manifest of images of the kind that the model is for",
        required=True, metavar="PLACE",
    )  # fmt: skip
    output: str = option(None, "model folder to write", required=True, metavar="MODEL_DIR")
    labels: str = option(
        "", "true labels, to measure accuracy: `parent` (the folder's name) or `column:NAME`"
        " of the manifest", metavar="SOURCE",
    )  # fmt: skip
    weights: str | None = option(None, "weights file for the ImageNet model", metavar="FILE")
    trust_model: bool = option(False, "run a model whose graph may touch files or the network")
    json: bool = option(False, "print the figures as JSON")

    def problems(self) -> list[str]:
        problems = check_inputs((self.images,))
        if self.labels not in ("", PARENT) and not self.labels.startswith("column:"):
            problems.append(f"--labels {self.labels}: write `parent` or `column:NAME`")
        return problems
