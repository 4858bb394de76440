"""How well `imagecensus plan` foretells a run."""

from __future__ import annotations

import pathlib
import sys

from measure import Measured, run

_CODE = """\
import json, sys
from imagecensus.jobs import plan
found = plan.measure(plan.PlanOptions(inputs=(sys.argv[1],), model=sys.argv[2]))
print(json.dumps({"seconds": found.seconds, "error": found.relative_error}))
"""


def foretell(photos: pathlib.Path, model: str) -> Measured:
    """Measures a sample as `imagecensus plan` does; `said` is the forecast."""
    return run([sys.executable, "-c", _CODE, photos, model])


def row(foretold: Measured, done: dict) -> dict:
    """Forecast and run side by side. What others took of the machine spoils both."""
    seconds = foretold.said["seconds"]
    return {
        "forecast": seconds,
        "uncertainty": foretold.said["error"],
        "run": done["wall"],
        "forecast/run": seconds / done["wall"],
        "plan itself": foretold.wall,
        "others then": foretold.others,
        "others in the run": done["others"],
    }
