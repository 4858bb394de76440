"""Units given out: a graph that does not grow, no unit twice, none of a run that is over."""

import hashlib

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import fn_runner

from imagecensus.transforms import begin_units
from imagecensus.transforms.begin_units import BeginUnits, GiveUnits, pending_units, together
from imagecensus.transforms.dataset import parts, work_plan
from imagecensus.transforms.dataset.epoch import fence_of, raise_epoch
from imagecensus.transforms.dataset.plan_units import plan_units
from imagecensus.transforms.records import REF_SCHEMA, Unit, prediction_schema


class UnitsOf:
    """The units of a plan of so many images, made as they are asked for."""

    def __init__(self, images: int):
        self._images = images

    def __len__(self):
        return self._images // 512

    def __iter__(self):
        for file in range(len(self) // 512):
            digest = hashlib.sha256(str(file).encode()).hexdigest()[:16]
            name = f"gs://bucket/census/_imagecensus/plan-{file:05d}-{digest}.parquet"
            yield from (
                Unit(name="0" * 24, plan=name, row_group=group, rows=512) for group in range(512)
            )

    __contains__ = None


@pytest.mark.parametrize("images, size", [(100_000_000, 60_000), (1_000_000_000, 200_000)])
def test_the_graph_does_not_grow(images, size):
    pipeline = beam.Pipeline(runner=fn_runner.FnApiRunner())
    _ = pipeline | GiveUnits(units=UnitsOf(images), folder="gs://bucket/x")
    assert len(pipeline.to_runner_api().SerializeToString()) < size


@pytest.fixture
def planned(tmp_path):
    refs = [{"uri": f"/{i:02d}", "size": 1, "etag_or_mtime": "1"} for i in range(20)]
    batch = pa.RecordBatch.from_pylist(refs, REF_SCHEMA)
    return plan_units([batch], str(tmp_path), "f", passthrough=pa.schema([]), unit_rows=2)


GIVEN = []  # of the pipeline that ran last in this process


def take(unit):
    GIVEN.append(unit)


def given(units, folder, **options):
    """What a worker gets of these units, as (unit, its references)."""
    GIVEN.clear()
    with beam.Pipeline(runner=fn_runner.FnApiRunner()) as pipeline:
        stages = pipeline | GiveUnits(units=units, folder=str(folder))
        _ = stages | BeginUnits(**options) | beam.Map(take)
    return [(unit, work_plan.read_unit(unit)) for unit in GIVEN]


@pytest.mark.parametrize("groups", [1, 1000])
def test_units_that_are_pending_arrive_with_their_references(
    planned, tmp_path, monkeypatch, groups
):
    monkeypatch.setattr(begin_units, "GROUPS", groups)
    wanted = planned.units[1::3]
    expected = {unit: work_plan.read_unit(unit) for unit in wanted}
    assert dict(given(wanted, tmp_path, parts=str(tmp_path / "parts"))) == expected


HANDED = []  # the units of each element, by the pipeline that ran last in this process
units_of = begin_units.units_of


def units_noted(pending, folder):
    HANDED.append(units_of(pending, folder))
    return HANDED[-1]


@pytest.mark.parametrize("count, size", [(19, 1), (100, 10), (400, 32)])
def test_of_many_units_a_worker_gets_several_of_one_plan_file(tmp_path, monkeypatch, count, size):
    """It reads the file once for them; few units are spread one by one."""
    monkeypatch.setattr(begin_units, "GROUPS", 10)
    monkeypatch.setattr(begin_units, "units_of", units_noted)
    refs = [{"uri": f"/{i:03d}", "size": 1, "etag_or_mtime": "1"} for i in range(2 * count)]
    units = planned_units(tmp_path, refs)
    HANDED.clear()
    given(units, tmp_path, parts=str(tmp_path / "parts"))
    whole, *groups = HANDED
    assert whole == list(units)
    assert sorted(map(len, groups))[1:] == [size] * (len(groups) - 1)
    assert {unit for group in groups for unit in group} == set(units)


def test_bits_name_the_row_groups():
    units = [
        Unit(name="a", plan="/x/plan-1", row_group=0, rows=1),
        Unit(name="b", plan="/x/plan-1", row_group=9, rows=1),
        Unit(name="c", plan="/x/p2", row_group=0, rows=1),
    ]
    assert pending_units(units) == [("plan-1", b"\x80\x40"), ("p2", b"\x80")]


def rows_of(unit) -> pa.Table:
    refs = work_plan.read_unit(unit)
    rows = [{**ref, "status": "ok", "label": "cat"} for ref in refs.to_pylist()]
    return pa.Table.from_pylist(rows, prediction_schema())


def test_a_finished_unit_is_not_begun_again(planned, tmp_path):
    """On Flink a lost machine restarts the whole job: 84 of 100 units were done twice."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for unit in planned.units[:6]:
        parts.write_part(str(folder), unit, rows_of(unit), {"fingerprint": "f"})
    begun = [unit for unit, _ in given(planned.units, tmp_path, parts=str(folder))]
    assert sorted(unit.name for unit in begun) == sorted(u.name for u in planned.units[6:])


def test_workers_of_an_earlier_run_begin_nothing(planned, tmp_path):
    location = str(tmp_path / "epoch.json")
    fence = fence_of(location, location, raise_epoch(location, "run 1"))
    folder = str(tmp_path / "parts")
    assert len(given(planned.units, tmp_path, parts=folder, fence=fence)) == 10
    raise_epoch(location, "run 2")
    assert given(planned.units, tmp_path, parts=folder, fence=fence) == []


def packed(container: str, kind: str, images: int, *, groups: int = 1) -> list[dict]:
    members = (
        f'["{kind}", {i * groups // images}, {i}, "image"]'
        if kind == "parquet"
        else f'["{kind}", {i}, 1]'
        for i in range(images)
    )
    return [
        {"uri": f"{container}#{i:03d}", "size": 1, "etag_or_mtime": "1",
         "container": container, "member": member}
        for i, member in enumerate(members)
    ]  # fmt: skip


def planned_units(folder, refs: list[dict]) -> list[Unit]:
    batch = pa.RecordBatch.from_pylist(refs, REF_SCHEMA)
    folder.mkdir(exist_ok=True)
    none = pa.schema([])
    return plan_units([batch], str(folder), "f", passthrough=none, unit_rows=2).units


def sizes(folder, refs: list[dict]) -> list[int]:
    return [len(units) for units in together(planned_units(folder, refs), 1)]


def test_units_of_an_archive_that_is_read_front_to_back_stay_together(tmp_path):
    assert sizes(tmp_path / "gz", packed("/a", "tar.gz", 8) + packed("/b", "tar.gz", 4)) == [4, 2]
    # The unit that an archive begins in the middle of goes with the one before.
    assert sizes(tmp_path / "cut", packed("/a", "tar.gz", 5) + packed("/b", "tar.gz", 5)) == [3, 2]
    assert sizes(tmp_path / "rows", packed("/a", "parquet", 12, groups=2)) == [3, 3]


def test_units_that_can_be_read_in_any_order_are_spread(tmp_path):
    assert sizes(tmp_path / "tar", packed("/a", "tar", 8)) == [1] * 4
    assert sizes(tmp_path / "zip", packed("/a", "zip", 4)) == [1] * 2
    refs = [{"uri": f"/{i}", "size": 1, "etag_or_mtime": "1"} for i in range(4)]
    assert sizes(tmp_path / "files", refs) == [1] * 2


def test_a_long_archive_is_read_by_several(tmp_path, monkeypatch):
    monkeypatch.setattr(begin_units, "UNITS_TOGETHER", 3)
    assert sizes(tmp_path / "a", packed("/a", "tar.gz", 14)) == [3, 3, 1]
    assert sizes(tmp_path / "b", packed("/b", "tar.gz", 80)) == [10] * 4


@pytest.mark.parametrize("groups", [1, 1000])
def test_a_worker_gets_an_archive_in_its_order(tmp_path, monkeypatch, groups):
    monkeypatch.setattr(begin_units, "GROUPS", groups)
    units = planned_units(tmp_path, packed("/a", "tar.gz", 40))
    got = given(units, tmp_path, parts=str(tmp_path / "parts"))
    assert [unit.name for unit, _ in got] == [unit.name for unit in units]
