"""The options of `imagecensus browse`."""

from __future__ import annotations

import dataclasses

from imagecensus.jobs.command.options import Options, argument, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrowseOptions(Options):
    """Shows a finished table as a page on this machine."""

    output: str = argument("the --output folder of a classify run")
    port: int = option(8642, "port to listen on; 0 takes a free one", metavar="N")
    model: str | None = option(
        None, "model for images dropped on the page; default: the run's", metavar="DIR"
    )

    def problems(self) -> list[str]:
        return [] if 0 <= self.port < 2**16 else ["--port must be from 0 to 65535"]
