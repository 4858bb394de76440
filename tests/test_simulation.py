"""The simulated runs of the bench: what must hold of them whatever the figures."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).with_name("bench")))

from simulate import UNIT, Bucket, Costs, Fleet, Simulation, rerun_on_bucket

COSTS = Costs(image=0.02, planned=1e-6, known=1e-6, start=10)
IMAGES = 1_000_000
CALM = Fleet(machines=10, days=1e9, spread=0)
RUNNERS = {
    "shards": Simulation.shards,
    "flink": Simulation.flink,
    "waves": lambda one: one.flink(waves=8),
    "dataflow": Simulation.dataflow,
}


def mean(name: str, fleet: Fleet, field: str) -> float:
    runs = [RUNNERS[name](Simulation(IMAGES, COSTS, fleet, seed)) for seed in range(10)]
    return sum(getattr(run, field) for run in runs) / len(runs)


@pytest.mark.parametrize("name", RUNNERS)
def test_without_losses_a_run_takes_what_its_images_take(name):
    work = IMAGES * COSTS.image / CALM.cores / CALM.machines
    assert work < mean(name, CALM, "seconds") < work * 1.15 + 300
    assert mean(name, CALM, "begun") == -(-IMAGES // UNIT)


@pytest.mark.parametrize("name", RUNNERS)
def test_losses_cost_time_and_a_few_units(name):
    dying = dataclasses.replace(CALM, days=0.02)
    assert mean(name, dying, "losses") > 1
    assert mean(name, dying, "seconds") > mean(name, CALM, "seconds")
    again = mean(name, dying, "begun") - mean(name, CALM, "begun")
    assert 0 < again <= 2 * CALM.machines * (mean(name, dying, "losses") + 1)


def test_waves_use_the_speed_of_machines_that_differ():
    uneven = dataclasses.replace(CALM, spread=0.3)
    assert mean("waves", uneven, "seconds") < 0.85 * mean("flink", uneven, "seconds")


def test_a_rerun_on_a_bucket_adds_what_grows_with_the_table():
    asked = {
        "1": {"wall_s": 5.0, "parts": 512, "listings": 2, "plan": 2, "all": 40},
        "5": {"wall_s": 6.0, "parts": 2560, "listings": 6, "plan": 10, "all": 52},
    }
    bucket = Bucket(request=0.1, readers=4, rate=1e6, indexed=16)
    found = rerun_on_bucket(2048 * 100 * UNIT, asked, 1e-7, bucket)
    rows, files = 2048 * 100 * UNIT, 400
    assert found["names of parts"] == pytest.approx(400 * 0.1)
    assert found["plan"] == pytest.approx(2 * files * 0.1 / 4 + rows * 16e-6)
    assert found["launcher's CPU"] == pytest.approx(rows * 1e-7)
    assert found["requests"] == pytest.approx(40 + 400 + 800)
    assert found["seconds"] == pytest.approx(
        5 + sum(found[name] for name in ("names of parts", "plan", "launcher's CPU"))
    )
