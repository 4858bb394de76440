"""What may be asked of the web, alike in every process of a run.

It travels in the environment: processes that open archives inherit it, wherever they are started.
"""

from __future__ import annotations

import dataclasses
import os

_VARIABLE = "IMAGECENSUS_WEB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebPolicy:
    """How web addresses are read.

    Attributes:
      allow_private_hosts: also addresses of this machine and its networks.
      ignore_robots: do not ask robots.txt, nor heed X-Robots-Tag.
      host_connections: connections to one host at a time, in each process.
      image_side: pixels that an IIIF server is asked for; 0: images as they are.
    """

    allow_private_hosts: bool = False
    ignore_robots: bool = False
    host_connections: int = 16
    image_side: int = 0

    def apply(self) -> None:
        """Makes it the policy of this process, and of those that it starts."""
        if self == WebPolicy():
            os.environ.pop(_VARIABLE, None)
        else:
            values = dataclasses.asdict(self)
            os.environ[_VARIABLE] = ",".join(f"{name}={int(values[name])}" for name in values)


def current() -> WebPolicy:
    """The policy of this process."""
    text = os.environ.get(_VARIABLE, "")
    if not text:
        return WebPolicy()
    values = dict(part.split("=") for part in text.split(","))
    return WebPolicy(
        allow_private_hosts=values["allow_private_hosts"] == "1",
        ignore_robots=values["ignore_robots"] == "1",
        host_connections=int(values["host_connections"]),
        image_side=int(values["image_side"]),
    )
