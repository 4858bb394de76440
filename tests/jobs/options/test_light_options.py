"""Options are parsed without what takes long to import, and know what their jobs know."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from imagecensus.jobs import cli, table
from imagecensus.jobs.options.export import ExportOptions
from imagecensus.jobs.options.table import TableOptions
from imagecensus.model_export.foreign import network_checks

HEAVY = (
    "PIL", "apache_beam", "duckdb", "keras", "matplotlib", "numpy", "openvino", "pyarrow",
    "sklearn", "tensorflow",
)  # fmt: skip
TAKEN = {
    "browse": "out", "classify": ". --output out", "compact": "out", "doctor": "--output out",
    "evaluate": "out --labels parent", "export": ". --output m --input-range 0..1", "plan": ".",
    "predict": "a.jpg", "quantize": "--images . --output m", "report": "out",
    "similar": "out a.jpg", "status": "out", "table": "out",
    "train": ". --output m --recipe flowers",
}  # fmt: skip


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_options_are_parsed_before_anything_large_is_imported(name):
    code = (
        "import sys\nfrom imagecensus.jobs import cli\n"
        "name, *words = sys.argv[1:]\ncli.parse(name, words)\n"
        f"late = [*{HEAVY}, f'imagecensus.jobs.{{name}}']\n"
        "print([one for one in late if one in sys.modules])"
    )
    words = [sys.executable, "-c", code, name, *TAKEN[name].split()]
    assert subprocess.run(words, capture_output=True, check=True, timeout=60).stdout == b"[]\n"


def test_choices_are_those_of_the_jobs():
    choices = {f.name: f.metadata.get("choices") for f in dataclasses.fields(ExportOptions)}
    assert choices["input_range"] == tuple(network_checks.RANGES)
    choices = {f.name: f.metadata.get("choices") for f in dataclasses.fields(TableOptions)}
    assert choices["format"] == tuple(table.FORMATS)
