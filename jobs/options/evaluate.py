"""The options of `imagecensus evaluate`."""

from __future__ import annotations

import dataclasses

from imagecensus.jobs.command.options import Options, argument, option

HELP = "`parent` (the folder's name), `column:NAME` of the table, or a CSV, JSONL or Parquet file"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Compares a finished table with true labels; writes OUTPUT/evaluation and renews the
    report.
    """

    output: str = argument("the --output folder of a classify run")
    labels: str = option("", f"where the true labels are: {HELP}", metavar="SOURCE")
    uri_column: str = option("uri", "column of the --labels file that names the image")
    label_column: str = option("label", "column of the --labels file that holds the true label")
    model: str = option(
        "",
        "folder of the model, where it was moved since: which of the images it was trained on is"
        " known there",
        metavar="MODEL_DIR",
    )

    def problems(self) -> list[str]:
        return [] if self.labels else [f"--labels is missing: {HELP}"]
