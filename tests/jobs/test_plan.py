"""The forecast's arithmetic, and one run of the real thing."""

from __future__ import annotations

import json

import pytest
from samples import make_photos

from imagecensus.jobs import plan
from imagecensus.jobs.cli import main
from imagecensus.model_export.common.errors import UserError

MEASURED = plan.Measured(
    images=1_000_000,
    listing_seconds=100.0,
    fixed_seconds=10.0,
    seconds_per_image=0.01,
    relative_error=0.1,
    bytes_per_image=1e5,
    cpu_shares={"decode": 1.0},
)


def test_time_is_fixed_part_and_rate(monkeypatch):
    monkeypatch.setattr(plan, "usable_cores", lambda: 2)
    text = plan.forecast(MEASURED, vcpus=2, deadline=1.0, prices=plan.PRICES)
    assert "100.0 images/s" in text
    assert "2 h 48 min" in text  # 10,110 s
    # 1e6 images x 0.02 core-seconds x 1.1 on 2 cores each within 3,490 s
    assert "4 of 2 vCPUs" in text


def test_a_run_of_another_size_is_foretold_from_the_sample(tiny_model, tmp_path, monkeypatch):
    """Runs that take a second to start and 10 ms an image, a tenth more or less at times."""
    make_photos(tmp_path, 60)
    noise = iter([1.0, 0.9, 1.1, 1.05, 0.95])

    def run(options, uris, folder, name):
        busy = 0.010 * len(uris) * next(noise)
        return {"whole": 1.0 + busy, "busy": busy, "stages": {"decode": busy}}

    monkeypatch.setattr(plan, "_run", run)
    options = plan.PlanOptions(inputs=(str(tmp_path),), sample=60, images=3000)
    found = plan.measure(options)
    assert found.seconds - found.listing_seconds == pytest.approx(1.0 + 3000 * 0.010, rel=0.01)
    assert 0.05 < found.relative_error < 0.2


def test_cost_follows_the_table():
    cost = plan.cost_per_million(0.036, 1e5, plan.PRICES | {"vcpu_hour": 1.0, "gib_hour": 0.0})
    assert cost["compute"] == pytest.approx(10.0)


def test_prices_can_be_overridden(tmp_path):
    table = tmp_path / "prices.json"
    table.write_text(json.dumps({"vcpu_hour": 9}))
    assert plan.read_prices(str(table))["vcpu_hour"] == 9
    table.write_text(json.dumps({"vcpu": 9}))
    with pytest.raises(UserError, match="unknown vcpu"):
        plan.read_prices(str(table))


def test_the_sample_is_of_the_whole_listing(tmp_path):
    make_photos(tmp_path, 60)
    count, uris, sizes = plan.sample_listing((str(tmp_path),), 20, seed=1, stop_after=None)
    assert count == 60
    assert len(set(uris)) == len(sizes) == 20
    assert any(uri > f"{tmp_path}/00040" for uri in uris)


def test_a_forecast_of_real_runs(tiny_model, tmp_path, capsys):
    make_photos(tmp_path / "in", 60)
    assert main(["plan", str(tmp_path / "in"), f"--model={tiny_model}", "--sample=60"]) == 0
    said = capsys.readouterr().out
    for word in ("images     60", "rate", "±", "time", "requests", "cost", "check them"):
        assert word in said
