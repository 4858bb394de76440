"""The options of `imagecensus table`."""

from __future__ import annotations

import dataclasses
import os

from imagecensus.jobs.command.options import Options, argument, option
from imagecensus.transforms.storage.locations import is_bucket


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableOptions(Options):
    """Writes a finished table as CSV or JSON Lines. In CSV, lists are JSON texts."""

    output: str = argument("the --output folder of a classify run")
    format: str = option("csv", "csv or jsonl", choices=("csv", "jsonl"))
    to: str = option(
        "-", "file to write, local or in a store; - is standard output", metavar="FILE"
    )
    embeddings: bool = option(False, "with the embeddings, where the table has them")

    def problems(self) -> list[str]:
        there = is_bucket(self.to) or os.path.isdir(os.path.dirname(self.to) or ".")
        return [] if there else [f"--to={self.to}: there is no such folder; make it first"]
