"""The races that lost and doubled rows, replayed: whoever writes late, each image is one row."""

from __future__ import annotations

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import fn_runner

from imagecensus.transforms.dataset import inventory, parts, work_plan
from imagecensus.transforms.dataset.epoch import fence_of, raise_epoch
from imagecensus.transforms.dataset.plan_units import Revising, plan_units
from imagecensus.transforms.records import REF_SCHEMA, PredictionBatch, Unit, prediction_schema
from imagecensus.transforms.write_parts import WriteParts

IMAGES = 512


class Dataset:
    """One unit of 512 images; runs over it are made by hand, with what their workers read."""

    def __init__(self, folder):
        self.state, self.parts = folder / "state", folder / "parts"
        self.state.mkdir()
        self.parts.mkdir()
        self.epoch = str(self.state / "epoch.json")
        refs = [{"uri": f"/{i:03d}", "size": 1, "etag_or_mtime": "1"} for i in range(IMAGES)]
        self.refs = pa.RecordBatch.from_pylist(refs, REF_SCHEMA)

    def plan(self, retry: bool = False) -> Unit:
        """Begins a run; returns the unit as it plans it."""
        plan = work_plan.read_plan(str(self.state))
        found = inventory.take_inventory(str(self.parts), plan, "f")
        revising = Revising(
            bases=found.bases | {name: part.file.revision for name, part in found.parts.items()},
            retry=frozenset(found.with_failures if retry else ()),
            failed=lambda name: inventory.failed_uris(found.parts[name]),
        )
        planned = plan_units(
            [self.refs], str(self.state), "f", passthrough=pa.schema([]), revising=revising
        )
        [unit] = planned.plan.units
        return unit

    def begin(self, name: str):
        """The fence of a new run."""
        return fence_of(self.epoch, self.epoch, raise_epoch(self.epoch, name))

    def rows(self, unit: Unit, failed=(), label="cat") -> PredictionBatch:
        """What a worker has classified of a unit; `failed`: numbers of images it cannot read."""
        refs, taken = work_plan.read_taken(unit)
        if unit.base >= 0:
            again = parts.missing(taken, parts.rows_to_take(str(self.parts), unit))
            refs = refs.filter(pa.array(again))
        bad = {f"/{number:03d}" for number in failed}
        rows = [
            {"uri": ref["uri"], "etag_or_mtime": ref["etag_or_mtime"], "status": "read_error"}
            if ref["uri"] in bad
            else {**ref, "status": "ok", "label": label}
            for ref in refs.to_pylist()
        ]
        table = pa.Table.from_pylist(rows, prediction_schema()).combine_chunks()
        return PredictionBatch(unit=unit, rows=table.to_batches()[0], last=True)

    def write(self, batch: PredictionBatch, fence=None) -> None:
        stage = WriteParts(folder=str(self.parts), provenance={"fingerprint": "f"}, fence=fence)
        with beam.Pipeline(runner=fn_runner.FnApiRunner()) as pipeline:
            _ = pipeline | beam.Create([batch]) | stage

    def table(self) -> pa.Table:
        """What the run's totals are counted from, after the last run has looked."""
        plan = work_plan.read_plan(str(self.state))
        found = inventory.take_inventory(str(self.parts), plan, "f")
        assert not found.unplanned and not found.pending and not found.damaged
        inventory.remove(found.stale)
        [part] = list(self.parts.iterdir())
        return parts.read_part(str(part))

    def check(self, failed: int) -> pa.Table:
        table = self.table()
        assert len(set(table.column("uri").to_pylist())) == table.num_rows == IMAGES
        assert table.column("status").to_pylist().count("read_error") == failed
        return table


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path)


@pytest.mark.parametrize("fenced", [True, False])
def test_a_stale_worker_puts_no_failures_back(dataset, fenced):
    """Run 1's worker hangs in an outage; run 2 does the unit well; then the first one writes."""
    first = dataset.begin("run 1")
    unit = dataset.plan()
    late = dataset.rows(unit, failed=range(200))
    second = dataset.begin("run 2")
    dataset.write(dataset.rows(dataset.plan()), second)
    dataset.write(late, first if fenced else None)  # a part is never written twice, too
    dataset.check(failed=0)


@pytest.mark.parametrize("fenced", [True, False])
def test_retried_failures_that_came_back(dataset, fenced):
    """200 failures are retried and well; a worker of the run before wakes up and writes."""
    first = dataset.begin("run 1")
    late = dataset.rows(dataset.plan(), failed=range(200))
    dataset.write(late, first)
    dataset.check(failed=200)
    dataset.write(dataset.rows(dataset.plan(retry=True), label="dog"), dataset.begin("run 2"))
    dataset.write(late, first if fenced else None)
    table = dataset.check(failed=0)
    assert table.column("label").to_pylist() == ["dog"] * 200 + ["cat"] * 312


def test_a_retry_of_other_failures_than_the_part_has(dataset):
    """It read the failures 1, 2, 3; meanwhile the part became one with the failures 7, 8, 9."""
    unit = dataset.plan()
    dataset.write(dataset.rows(unit, failed=[1, 2, 3]))
    retried = dataset.plan(retry=True)
    batch = dataset.rows(retried)
    assert batch.rows.column("uri").to_pylist() == ["/001", "/002", "/003"]
    [part] = dataset.parts.iterdir()
    part.unlink()
    dataset.write(dataset.rows(unit, failed=[7, 8, 9]))
    dataset.write(batch)
    dataset.check(failed=3)  # /007 to /009: once each, as the table says


def test_two_attempts_of_a_retry(dataset):
    """The second attempt finds its work done, whatever the first one left; it never fails."""
    dataset.write(dataset.rows(dataset.plan(), failed=range(200)))
    unit = dataset.plan(retry=True)
    first, second = dataset.rows(unit), dataset.rows(unit, failed=range(20))
    dataset.write(first)
    dataset.write(second)
    dataset.check(failed=0)


def test_two_runs_at_the_same_time(dataset):
    """Neither saw the other: both plan and do the same unit. One part, of one of them."""
    unit, same = dataset.plan(), dataset.plan()
    dataset.write(dataset.rows(same, label="dog"))
    dataset.write(dataset.rows(unit, label="cat"))
    assert set(dataset.check(failed=0).column("label").to_pylist()) == {"dog"}


def test_two_retries_at_the_same_time(dataset):
    """Both revise the unit from the same part; the later plan's revision takes the other's rows."""
    dataset.write(dataset.rows(dataset.plan(), failed=[1, 2, 3]))
    one = dataset.plan(retry=True)
    late = dataset.rows(one, failed=[1])
    dataset.write(dataset.rows(one, failed=[1, 2]))
    other = dataset.plan(retry=True)
    assert (one.revision, other.revision, other.base) == (1, 2, 1)
    dataset.write(dataset.rows(other))
    dataset.write(late)  # of a revision that is over: removed by the next look
    dataset.check(failed=0)


def test_a_fenced_run_leaves_the_output_as_it_is(dataset):
    """It is over: it writes no part, not even of a unit that nobody has done."""
    first = dataset.begin("run 1")
    batch = dataset.rows(dataset.plan())
    second = dataset.begin("run 2")
    dataset.write(batch, first)
    assert not list(dataset.parts.iterdir())
    dataset.write(batch, second)
    dataset.check(failed=0)
