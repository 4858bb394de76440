"""The options of `imagecensus predict`."""

from __future__ import annotations

import dataclasses
import os

from imagecensus.jobs.command.options import Options, argument, option
from imagecensus.transforms.storage.locations import is_remote

STDIN = "-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    """Classifies a few images and prints the answers."""

    images: tuple[str, ...] = argument(
        "image files, objects of stores (as gs://), or - for one image on standard input",
        nargs="+",
        metavar="IMAGE",
    )
    model: str | None = option(
        None, "model folder; without it, MobileNet-V2 trained on ImageNet", metavar="DIR"
    )
    weights: str | None = option(
        None, "weights file for the ImageNet model, where there is no network", metavar="FILE"
    )
    top_k: int = option(5, "best classes shown per image", metavar="K")
    json: bool = option(False, "one JSON object per line, with the table's columns")
    engine: str = option("auto", "auto, openvino or tensorflow", metavar="NAME")
    gps: bool = option(False, "add where the image was taken, where it says so; with --json")
    trust_model: bool = option(False, "run a model whose graph may touch files or the network")

    def problems(self) -> list[str]:
        problems = []
        for image in self.images:
            if image != STDIN and not is_remote(image) and os.path.isdir(image):
                problems.append(f"{image}: a folder; use `imagecensus classify` for many images")
        if self.images.count(STDIN) > 1:
            problems.append("-: standard input holds one image; name it once")
        if self.top_k < 1:
            problems.append("--top-k must be at least 1")
        return problems
