"""A rerun reads the parts that the ledger does not know, and only these; totals stay the same."""

import os
import pathlib

import pyarrow as pa
import pytest
from test_parts import rows_of

from imagecensus.transforms.dataset import inventory, ledger, parts
from imagecensus.transforms.dataset.inventory import take_inventory
from imagecensus.transforms.dataset.work_plan import Plan, PlanFile, unit_name
from imagecensus.transforms.records import Unit


@pytest.fixture
def read(monkeypatch):
    """Which parts were read."""
    locations = []

    def noting(location, columns=None):
        locations.append(location)
        return parts.read_part(location, columns)

    monkeypatch.setattr(inventory, "read_part", noting)
    return locations


@pytest.fixture
def units(tmp_path):
    folder, found = tmp_path / "predictions", []
    folder.mkdir()
    for number in range(4):
        rows = rows_of(["ok", "ok", "truncated"][: number or 3], label=f"label {number}")
        uris = pa.array([f"/{number}/{at}" for at in range(rows.num_rows)])
        rows = rows.set_column(0, rows.schema.field(0), uris)
        made = Unit(name=unit_name(rows, "f"), plan="p", row_group=number, rows=rows.num_rows)
        parts.write_part(str(folder), made, rows, {"fingerprint": "f"})
        found.append(made)
    return found


def look(tmp_path, units, known=None):
    plan = Plan(files=(PlanFile(location="p", units=tuple(units)),))
    return take_inventory(str(tmp_path / "predictions"), plan, "f", known)


def facts(found):
    totals = found.totals
    return totals.rows, totals.statuses, totals.labels, found.with_failures, found.parts


def test_what_the_ledger_knows_is_not_read_again(tmp_path, units, read):
    first = look(tmp_path, units)
    assert len(read) == 4 and first.totals.rows == 9 and first.totals.failed == 2
    assert first.totals.labels == {"label 0": 2, "label 1": 1, "label 2": 2, "label 3": 2}
    ledger.write_ledger(str(tmp_path), "a", first.new, first.ledger)
    read.clear()
    again = look(tmp_path, units, ledger.read_ledger(str(tmp_path)))
    assert not read and facts(again) == facts(first) and len(again.new) == 0


@pytest.mark.parametrize("harm", ["touched", "cut", "another plan"])
def test_a_part_that_is_another_now_is_read(tmp_path, units, read, harm):
    known = look(tmp_path, units).ledger
    part = pathlib.Path(parts.part_location(str(tmp_path / "predictions"), units[2]))
    if harm == "touched":
        os.utime(part, ns=(1, 1))
    elif harm == "cut":
        part.write_bytes(part.read_bytes()[:-9])
    else:
        units[2] = Unit(name=units[2].name, plan="p", row_group=2, rows=2, digest="0" * 24)
    read.clear()
    found = look(tmp_path, units, known)
    assert read == [str(part)]
    assert found.damaged == ([] if harm == "touched" else [str(part)])
    assert found.totals.rows == (9 if harm == "touched" else 7)


def test_a_ledger_in_another_order_than_the_plan_is_not_copied(tmp_path, units):
    first = look(tmp_path, units)
    again = look(tmp_path, units[::-1], first.ledger)
    assert facts(again) == facts(first)
    assert again.ledger.table is first.ledger.table


def test_ledgers_of_several_runs_are_one_and_stay_few(tmp_path, units):
    for number in range(20):
        some = look(tmp_path, units[: number % 4 + 1])
        ledger.write_ledger(str(tmp_path), str(number), some.new, some.ledger)
    assert len(list(tmp_path.glob("ledger-*"))) <= 8
    assert facts(look(tmp_path, units, ledger.read_ledger(str(tmp_path)))) == facts(
        look(tmp_path, units)
    )


def test_a_damaged_ledger_counts_for_nothing(tmp_path, units, read):
    first = look(tmp_path, units)
    ledger.write_ledger(str(tmp_path), "a", first.new, first.ledger)
    (path,) = tmp_path.glob("ledger-*")
    path.write_bytes(path.read_bytes()[:-30])
    assert len(ledger.read_ledger(str(tmp_path))) == 0
    assert facts(look(tmp_path, units, ledger.read_ledger(str(tmp_path)))) == facts(first)


def test_parts_are_verified_as_asked(tmp_path, units):
    known = look(tmp_path, units * 1).ledger
    many = ledger.together([known] * 500)
    assert len(ledger.to_trust(many, "changed")) == 2000
    assert len(ledger.to_trust(many, "all")) == 0
    assert 1700 < len(ledger.to_trust(many, "0.1")) < 1900
