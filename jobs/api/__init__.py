"""Classify millions of archived images: one label per image, in a Parquet table.

The Python interface of the same jobs that the command `imagecensus` runs:

    import imagecensus

    result = imagecensus.classify("photos", output="census", top_k=3)
    result.table()                        # a pyarrow.Table, one row per image

Importing this package is quick: TensorFlow, Beam and Arrow are imported by what needs them.
`docs/python.md` has an example of each name.
"""

from __future__ import annotations

import sys

# `python -m imagecensus…` puts the current folder first on the path of imports, and nothing in an
# archive may ever be imported: so this comes before the other imports. While Python looks for the
# module to run, argv[0] is still "-m". Another program that imports us keeps its path.
if (
    sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
    and any(word.split(".")[0] == "imagecensus" for word in sys.orig_argv[1:])
):
    del sys.path[0]

import importlib
from typing import TYPE_CHECKING

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.version import __version__

if TYPE_CHECKING:
    from imagecensus.classify_uris import ClassifyUris
    from imagecensus.jobs.predict import Predictor
    from imagecensus.jobs.results.open_table import Table, open_table
    from imagecensus.run_job import ClassifyResult, TrainResult, classify, train

__all__ = [
    "ClassifyResult",
    "ClassifyUris",
    "Predictor",
    "Table",
    "TrainResult",
    "UserError",
    "__version__",
    "classify",
    "open_table",
    "train",
]

_HOMES = {
    "ClassifyResult": "imagecensus.run_job",
    "ClassifyUris": "imagecensus.classify_uris",
    "Predictor": "imagecensus.jobs.predict",
    "Table": "imagecensus.jobs.results.open_table",
    "TrainResult": "imagecensus.run_job",
    "classify": "imagecensus.run_job",
    "open_table": "imagecensus.jobs.results.open_table",
    "train": "imagecensus.run_job",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'imagecensus' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
