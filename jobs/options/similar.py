"""The options of `imagecensus similar`."""

from __future__ import annotations

import dataclasses

from imagecensus.jobs.command.options import Options, argument, option

MAX_IMAGES = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarOptions(Options):
    """Finds images that look alike, by embedding."""

    output: str = argument("the --output folder of a classify run with --embeddings")
    image: str = argument("an image file, or a uri of the table", nargs="?")
    top: int = option(10, "nearest images shown", metavar="N")
    duplicates: bool = option(False, "show groups of near-duplicates in the whole table instead")
    threshold: float = option(
        0.95, "cosine similarity from which two images are near-duplicates", metavar="X"
    )
    max_images: int = option(
        MAX_IMAGES, "--duplicates refuses longer tables: time grows with the square", metavar="N",
        former=("--max-pictures",),
    )  # fmt: skip
    model: str | None = option(None, "model folder, where the run's own has moved", metavar="DIR")
    json: bool = option(False, "one JSON object per line")

    def problems(self) -> list[str]:
        problems = []
        if bool(self.image) == self.duplicates:
            problems.append("name one image, or ask for --duplicates")
        if self.top < 1 or not 0 < self.threshold <= 1:
            problems.append("--top must be at least 1, --threshold within 0 and 1")
        return problems
