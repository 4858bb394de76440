"""The job on Prism, Beam's own local runner in Go."""

from __future__ import annotations

import json

import fetch_engines
import pytest
from samples import make_photos, read_rows

from imagecensus.jobs import cli

pytestmark = pytest.mark.skipif(
    not fetch_engines.PRISM.is_file(), reason="no Prism in Beam's cache; make prism builds it"
)


def test_rows_on_prism(tiny_model, tmp_path):
    photos = tmp_path / "photos"
    make_photos(photos, 60)
    (photos / "empty.png").write_bytes(b"")
    flags = [str(photos), f"--model={tiny_model}", "--unit-images=16"]
    assert cli.run("classify", [*flags, f"--output={tmp_path}/one"]) == 0
    prism = ["--runner=PrismRunner", f"--prism_location={fetch_engines.PRISM}"]
    assert cli.run("classify", [*flags, f"--output={tmp_path}/two", *prism]) == 0
    assert read_rows(tmp_path / "two").equals(read_rows(tmp_path / "one"))
    counters = json.loads((tmp_path / "two" / "run_report.json").read_text())["counters"]
    assert counters["images_ok"] == 60 and counters["images_failed"] == 1
