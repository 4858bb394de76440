"""Exactly one row an image, whatever dies between which file operations, and whoever is late."""

from __future__ import annotations

import collections
import os
import sys

import pytest
from test_compaction import LIST, classify, files, plan, references, rows_of, run_compact

from imagecensus.model_export.common.atomic import TEMPORARY_PREFIX
from imagecensus.transforms.dataset import (
    compaction,
    inventory,
    ledger,
    merging,
    parts,
    plan_units,
    work_plan,
)
from imagecensus.transforms.dataset.epoch import fence_of, raise_epoch
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.store import StorageError


class Killed(BaseException):
    """As by SIGKILL: what would tidy up finds that it can change no file any more."""


class _Death:
    """Ends the process before its n-th change of a file in a folder; from then on, each."""

    folder, left, done = "", -1, 0

    def see(self, event, arguments):
        if not self.folder or not self._is_change(event, arguments):
            return
        self.done += 1
        if self.left == 0:
            raise Killed
        self.left -= 1

    def _is_change(self, event, arguments):
        if event == "open":
            changes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            changes = event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")
        # A path without a folder: of one that is removed with all that is in it.
        path = os.fsdecode(arguments[0]) if changes and not isinstance(arguments[0], int) else ""
        return bool(path) and (path.startswith(self.folder) or "/" not in path)


DEATH = _Death()
sys.addaudithook(DEATH.see)  # for good; it sees nothing without a folder


@pytest.fixture
def killed(monkeypatch):
    """Runs something in a folder until its n-th operation; says whether that was reached."""

    def run(folder, number, function):
        DEATH.folder, DEATH.left = str(folder), number
        try:
            function()
            return False
        except Killed:
            return True
        finally:
            DEATH.folder = ""

    real = compaction._exchange

    def exchange(one, other):  # which Python does not tell of
        DEATH.see("os.rename", (one, other))
        real(one, other)

    monkeypatch.setattr(compaction, "_exchange", exchange)
    return run


def new_layout(folder) -> Layout:
    layout = Layout(output=str(folder))
    for name in (layout.parts, layout.state):  # also where a test says that it is a bucket
        os.makedirs(name)
    return layout


def run(layout, batch, failed="never", run_id="r"):
    """What `classify` does with files, in its order."""
    raise_epoch(layout.epoch, run_id)
    layout.remove_temporary()
    compaction.recover_or_refuse(layout)
    found = work_plan.read_plan(layout.state)
    known = ledger.read_ledger(layout.state)
    present = inventory.take_inventory(layout.parts, found, "f", known)
    assert not compaction.remove_late(layout.state, present.unplanned, "f")
    inventory.remove([*present.damaged, *present.stale])
    classify(layout, plan(layout, batch), failed, run_id)
    after = inventory.take_inventory(layout.parts, work_plan.read_plan(layout.state), "f", known)
    assert not after.unplanned
    inventory.remove(after.stale)
    ledger.write_ledger(layout.state, run_id, after.new, after.ledger)
    return after


def seen(layout):
    """uri → status and version, of whoever reads the highest revisions."""
    rows = [row for p in parts.list_parts(layout.parts).values() for row in _rows(p)]
    assert len({row[0] for row in rows}) == len(rows), "a row twice"
    return {uri: row for uri, *row in rows}


def _rows(location):
    table = parts.read_part(location, ["uri", "status", "etag_or_mtime"])
    return [tuple(row.values()) for row in table.to_pylist()]


def check(layout, images):
    """All is as it should be, for programs that read by a glob, too."""
    found = inventory.take_inventory(layout.parts, work_plan.read_plan(layout.state), "f")
    assert not (found.pending or found.damaged or found.unplanned or found.stale)
    assert found.totals.rows == rows_of(layout).num_rows == len(seen(layout)) == images
    left = [name for name in os.listdir(layout.parts) if name.startswith(TEMPORARY_PREFIX)]
    assert not left or store.is_bucket(layout.parts), "a store has no temporary files"


def test_a_run_killed_before_any_of_its_file_operations(tmp_path, killed):
    """New, changed and failed images: the run after it ends in the table of one that was not."""
    first, later = references(range(30)), references(range(25, 45), etag="2")
    number, died = 0, True
    while died:
        layout = new_layout(tmp_path / str(number))
        run(layout, first, failed="9")
        before = seen(layout)
        died = killed(layout.output, number, lambda at=layout: run(at, later, run_id="s"))
        assert seen(layout).keys() >= before.keys(), f"operation {number}: a row is not there"
        run(layout, later, run_id="t")
        run(layout, references(range(25)), run_id="u")
        check(layout, 45)
        assert {row[0] for row in seen(layout).values()} == {"ok"}
        number += 1
    assert number > 30


@pytest.mark.parametrize("beside", [False, True])
def test_a_merge_killed_before_any_of_its_file_operations(tmp_path, monkeypatch, killed, beside):
    monkeypatch.setattr(compaction.store, "is_bucket", lambda _: beside)
    number, died = 0, True
    while died:
        layout = new_layout(tmp_path / str(number))
        units = plan(layout, references(range(30)))
        classify(layout, units[:-1])  # one stays to be done
        before = seen(layout)
        died = killed(layout.output, number, lambda at=layout: run_compact(at, 16))
        assert seen(layout) == before, f"operation {number}"
        run(layout, references(range(30)), run_id="t")
        check(layout, 30)
        run_compact(layout, 30, "fedcba")
        check(layout, 30)
        number += 1
    assert number > 20


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("when", ["before it counts", "after"])
def test_a_worker_that_writes_while_or_after_its_unit_is_merged(
    tmp_path, monkeypatch, beside, when
):
    """It looked whether its run goes on, and hung; its unit was done by others and merged."""
    monkeypatch.setattr(compaction.store, "is_bucket", lambda _: beside)
    layout = new_layout(tmp_path / "out")
    units = plan(layout, references(range(30)))
    classify(layout, units)
    late = {unit.name: store.read(parts.part_location(layout.parts, unit)) for unit in units}
    raise_epoch(layout.epoch, "later")

    def write_late():
        for name, data in late.items():
            with open(f"{layout.parts}/part-{name}.parquet", "wb") as file:
                file.write(data)

    if when == "after":
        run_compact(layout, 16)
        write_late()
        assert rows_of(layout).num_rows == 60, "what it is about"
    else:
        real = compaction.Merge.finish if beside else compaction._exchange

        def late_first(*arguments):
            write_late()
            return real(*arguments)

        place = (compaction.Merge, "finish") if beside else (compaction, "_exchange")
        monkeypatch.setattr(*place, late_first)
        run_compact(layout, 16)
        monkeypatch.setattr(*place, real)
    run(layout, references(range(30)), run_id="t")
    check(layout, 30)
    if when == "after":
        write_late()
        run_compact(layout, 30, "fedcba")
        check(layout, 30)


def test_what_is_not_a_late_part_is_refused_still(tmp_path):
    """Of images that the plan does not have, of another dataset, or damaged."""
    layout, other = new_layout(tmp_path / "out"), new_layout(tmp_path / "other")
    classify(layout, plan(layout, references(range(30))))
    run_compact(layout, 16)
    classify(other, plan(other, references(range(30, 40))))
    strays = [part.location for part in parts.list_part_files(other.parts)]
    damaged = f"{layout.parts}/part-{'0' * 24}.parquet"
    with open(damaged, "wb") as file:
        file.write(b"PAR1")
    assert compaction.remove_late(layout.state, [*strays, damaged], "f") == [*strays, damaged]
    same = parts.list_part_files(layout.parts)[0].location
    assert compaction.remove_late(layout.state, [same], "f") == [same], "it is planned"


def test_a_merge_that_hung_counts_no_more_once_another_run_has_undone_it(tmp_path, monkeypatch):
    """In a store: its lease ran out while it wrote, or right before its files were to count."""
    monkeypatch.setattr(compaction.store, "is_bucket", lambda _: True)
    for moment in ("while it writes", "before they count"):
        layout = new_layout(tmp_path / moment)
        classify(layout, plan(layout, references(range(30))))

        def taken_over(at=layout):
            compaction.recover(at)
            run(at, references(range(40)), run_id="other")

        asked = collections.Counter()

        def check_held(at=moment, counts=asked, take=taken_over):
            counts["asked"] += 1
            if at == "while it writes" and counts["asked"] == 3:
                take()
                raise StorageError("the lock was taken over")

        def finish(self, state, version, at=moment, take=taken_over, real=merging.Merge.finish):
            if at == "before they count":
                take()
            return real(self, state, version)

        with monkeypatch.context() as patch:
            patch.setattr(merging.Merge, "finish", finish)
            with pytest.raises(StorageError):
                compaction.compact(layout, "f", "abcdef", 16, check_held=check_held)
        assert not [name for name in files(layout) if "c0000" in name]
        run(layout, references(range(40)), run_id="t")
        check(layout, 40)


def test_a_launcher_that_lost_its_lock_plans_no_image_twice(tmp_path, monkeypatch):
    """Another one takes over between two plan files: whoever comes second stops."""
    monkeypatch.setattr(work_plan, "UNITS_PER_FILE", 1)
    layout, batch = new_layout(tmp_path / "out"), references(range(40))
    asked = []

    def check_held():
        asked.append(1)
        if len(asked) == 3:
            run(layout, batch, run_id="other")
            raise StorageError("the lock was taken over")

    with pytest.raises(StorageError, match="taken over"):
        plan_units.plan_units(
            [batch], layout.state, "f", passthrough=LIST, unit_rows=8, before_writing=check_held
        )
    run(layout, batch, run_id="t")
    check(layout, 40)
    planned = [unit.name for unit in work_plan.read_plan(layout.state).units]
    assert len(planned) == len(set(planned))


@pytest.mark.parametrize("lands", ["after the other's", "before the other's"])
def test_a_plan_file_that_hung_until_another_run_held_the_lock(tmp_path, monkeypatch, lands):
    """The request was sent while the lock was held, and carried out minutes later."""
    layout, real = new_layout(tmp_path / "out"), store.write
    run(layout, references(range(8)))
    hung, read = [], work_plan.read_plan(layout.state)

    def hang(location, data, **conditions):
        if "/plan-" in location:
            hung.append((location, data, conditions))
            raise StorageError("no answer")
        return real(location, data, **conditions)

    def plan_more(batch, **plan):
        return plan_units.plan_units(
            [batch], layout.state, "f", passthrough=LIST, unit_rows=8, **plan
        )

    monkeypatch.setattr(store, "write", hang)
    with pytest.raises(StorageError, match="no answer"):
        plan_more(references(range(40)))
    monkeypatch.setattr(store, "write", real)
    [(location, data, conditions)] = hung
    if lands == "after the other's":
        run(layout, references(range(4, 44)), run_id="other")
        with pytest.raises(store.ConflictError):
            store.write(location, data, **conditions)
    else:
        store.write(location, data, **conditions)
        with pytest.raises(store.ConflictError, match="run the same command again"):
            plan_more(references(range(4, 44)), plan=read)
        run(layout, references(range(44)), run_id="other")
    run(layout, references(range(44)), run_id="t")
    check(layout, 44)


def test_a_plan_file_whose_answer_was_lost_is_planned_once(tmp_path, monkeypatch):
    layout, real = new_layout(tmp_path / "out"), store.write

    def twice(location, data, **conditions):
        real(location, data, **conditions)
        return real(location, data, **conditions)

    monkeypatch.setattr(store, "write", twice)
    units = plan(layout, references(range(20)))
    monkeypatch.setattr(store, "write", real)
    assert [unit.name for unit in work_plan.read_plan(layout.state).units] == [
        unit.name for unit in units
    ]


def test_workers_of_a_run_that_is_over_write_nothing(tmp_path):
    layout = new_layout(tmp_path / "out")
    fence = fence_of(layout.epoch, layout.epoch, raise_epoch(layout.epoch, "first"))
    assert fence.is_held()
    run(layout, references(range(10)))
    assert not fence.is_held()
