"""The options of `imagecensus doctor`."""

from __future__ import annotations

import dataclasses

from imagecensus.jobs.command.options import argument
from imagecensus.jobs.options.classify import ClassifyOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorOptions(ClassifyOptions):
    """Checks whether a classify run with these arguments can work, before it spends anything.

    Takes what `classify` takes; inputs may be left out, or be the model folder alone.
    """

    epilog = "Exit codes: 0 nothing is in the way of a run; 1 something is."

    inputs: tuple[str, ...] = argument(
        "what is to be classified; a model folder is taken as --model", nargs="*", metavar="INPUT"
    )

    def problems(self) -> list[str]:
        """None: the checks find them, each with its remedy."""
        return []
