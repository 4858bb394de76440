"""A dataset goes on with the default model that it was begun with, though an update has another."""

import shutil

import pytest
from samples import export_tiny, make_photos, read_rows

from imagecensus.jobs.cli import main
from imagecensus.model_export import default_model
from imagecensus.model_export.contract import read_contract


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache with two default models: `former`, and the present one that any run would take."""
    monkeypatch.setenv("IMAGECENSUS_CACHE", str(tmp_path / "cache"))
    models = tmp_path / "cache" / "models"
    models.mkdir(parents=True)
    former = models / f"{default_model.NAME}-0123456789ab"
    present = models / f"{default_model.NAME}-{default_model._key(None)}"
    export_tiny(former, seed=1)
    export_tiny(present, seed=2)
    return former, present


def test_a_rerun_takes_the_model_that_the_dataset_was_begun_with(cached, tmp_path):
    former, _ = cached
    photos, output = tmp_path / "in", tmp_path / "out"
    make_photos(photos, 3)
    command = ["classify", str(photos), "--output", str(output), "--no-report"]
    assert main([*command, "--model", str(former)]) == 0
    before = read_rows(output).to_pylist()
    make_photos(photos, 2, first=3)
    assert main(command) == 0  # as it was run before the update: without --model
    rows = read_rows(output).to_pylist()
    assert len(rows) == 5 and all(row in rows for row in before)
    assert default_model.former_default_model(read_contract(str(former)).digest) == str(former)
    # A new dataset takes the present one.
    assert main(["classify", str(photos), "--output", str(tmp_path / "new")]) == 0
    assert [r["top_k"] for r in read_rows(tmp_path / "new").to_pylist()] != [
        r["top_k"] for r in rows
    ]


def test_without_the_former_one_in_the_cache_another_is_refused(cached, tmp_path, capsys):
    former, _ = cached
    photos, output = tmp_path / "in", tmp_path / "out"
    make_photos(photos, 2)
    main(["classify", str(photos), "--output", str(output), "--model", str(former)])
    shutil.rmtree(former)
    assert main(["classify", str(photos), "--output", str(output)]) == 2
    assert "made otherwise (model" in capsys.readouterr().err
