"""The options of `imagecensus plan`."""

from __future__ import annotations

import dataclasses

from imagecensus.jobs.command.options import Options, argument, option
from imagecensus.transforms.inputs.check import as_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """Measures a sample here and forecasts a whole run."""

    inputs: tuple[str, ...] = argument(
        "what is to be classified, as `imagecensus classify` takes it", nargs="+", metavar="INPUT"
    )
    model: str | None = option(
        None, "model folder; without it, MobileNet-V2 trained on ImageNet", "dataset", metavar="DIR"
    )
    weights: str | None = option(
        None, "weights file for the ImageNet model, where there is no network", "dataset",
        metavar="FILE",
    )  # fmt: skip
    sample: int = option(400, "so many images are measured", "forecast")
    images: int | None = option(
        None, "how many images the archive has, instead of listing it", "forecast", type=int,
        metavar="N",
    )  # fmt: skip
    deadline: float | None = option(None, "hours that the run may take", "forecast", type=float)
    vcpus: int = option(4, "vCPUs of one worker", "forecast")
    prices: str = option("", "JSON file of prices, over the built-in ones", "forecast")
    engine: str = option("auto", "auto, openvino, tensorflow or tfx-bsl", "machine", metavar="NAME")
    threads: int = option(0, "threads for decoding and inference; 0 is one per core", "machine")
    seed: int = option(0, "seed of the sample", "forecast")

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(map(as_path, self.inputs or ())))

    def problems(self) -> list[str]:
        problems = []
        if self.sample < 20:
            problems.append("--sample must be at least 20")
        if self.deadline is not None and self.deadline <= 0:
            problems.append("--deadline must be more than 0 hours")
        if self.images is not None and self.images < 1:
            problems.append("--images must be at least 1")
        if self.vcpus < 1:
            problems.append("--vcpus must be at least 1")
        if self.threads < 0:
            problems.append("--threads must be 0 or more")
        return problems
