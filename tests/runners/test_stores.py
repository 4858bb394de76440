"""The job on every store, through the command line, with a network that misbehaves.

Each test runs against fake-gcs-server, moto, versitygw and Azurite, behind a proxy that does harm;
where one of them cannot be had, its tests skip with the reason.
"""

from __future__ import annotations

import dataclasses
import gc
import gzip
import io
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import threading
import time
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from fault_proxy import Fault
from object_servers import BUCKET, Moto, forget_clients
from samples import make_photos

from imagecensus.jobs.cli import main
from imagecensus.jobs.options.classify import ClassifyOptions
from imagecensus.jobs.training_data.sources import read_training_data
from imagecensus.model_export.training.labelled_data import SplitFractions
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.decoders import lease
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.storage import lock, protocol, store

pytestmark = pytest.mark.gcs
PHOTOS = 30


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, PHOTOS)
    return folder


@pytest.fixture(scope="session")
def expected(photos, tiny_model, tmp_path_factory):
    """label and score by name, from the same photos on disk."""
    output = tmp_path_factory.mktemp("expected")
    assert main(["classify", str(photos), f"--model={tiny_model}", f"--output={output}"]) == 0
    return _answers(pq.read_table(f"{output}/predictions"))


@pytest.fixture
def there(remote, photos, tiny_model, monkeypatch, tmp_path):
    """A store with photos and a model in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if not getattr(remote, "filled", False):
        remote.put_tree("in/photos", photos)
        remote.put_tree("models/tiny", tiny_model)
        remote.filled = True
    return remote


def _answers(table: pa.Table) -> dict:
    rows = table.to_pylist()
    answers = {os.path.basename(row["uri"]): (row["label"], row["score"]) for row in rows}
    assert len(answers) == len(rows)
    return answers


def _table(there, output) -> pa.Table:
    parts = [io.BytesIO(there.get(name)) for name in there.names(f"{output}/predictions/")]
    return pa.concat_tables(map(pq.read_table, parts)).sort_by("uri")


def _classify(there, output, *flags, source="in/photos", page=False) -> int:
    command = ["classify", there.uri(source), f"--model={there.uri('models/tiny')}"]
    command += [] if page else ["--no-report"]
    return main([*command, f"--output={there.uri(output)}", "--unit-images=8", *flags])


def _report(there, output) -> dict:
    return json.loads(there.get(f"{output}/run_report.json"))


def test_everything_in_a_store(there, expected):
    assert _classify(there, "out/all", page=True) == 0
    table = _table(there, "out/all")
    assert _answers(table) == expected
    assert all(table.column("etag_or_mtime").to_pylist())
    assert _report(there, "out/all")["totals"]["balanced"]
    assert there.get("out/all/report.html").lstrip().startswith(b"<!")
    assert not [name for name in there.names("out/all") if "lock" in name or "probe" in name]
    assert main(["table", there.uri("out/all"), f"--to={there.uri('out/all.csv')}"]) == 0
    assert there.get("out/all.csv").count(b"\n") == PHOTOS + 1


def test_resume_adds_what_is_new_and_redoes_what_is_lost(there, expected):
    for name in there.names("in/photos/")[:20]:
        there.put(name.replace("in/photos", "in/grows"), there.get(name))
    assert _classify(there, "out/grows", source="in/grows") == 0
    first = {name: there.get(name) for name in there.names("out/grows/predictions/")}
    lost = min(first)
    store.delete(there.uri(lost))
    for name in there.names("in/photos/")[20:]:
        there.put(name.replace("in/photos", "in/grows"), there.get(name))
    assert _classify(there, "out/grows", source="in/grows") == 0
    assert _answers(_table(there, "out/grows")) == expected
    assert all(there.get(name) == data for name, data in first.items() if name != lost)


def test_a_delta_table_in_a_store(there, tmp_path):
    """Three versions, of copies that the store made itself: no part is read and written again."""
    for name in there.names("in/photos/")[:20]:
        there.put(name.replace("in/photos", "in/delta"), there.get(name))
    assert _classify(there, "out/delta", "--table=delta", source="in/delta") == 0
    versions = [_table(there, "out/delta")]
    there.put("in/delta/00001.jpg", there.get("in/photos/00025.jpg"))
    assert _classify(there, "out/delta", source="in/delta") == 0
    versions.append(_table(there, "out/delta"))
    assert main(["compact", there.uri("out/delta")]) == 0
    versions.append(_table(there, "out/delta"))
    for name in there.names("out/delta/delta/"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(there.get(name))
    for number, expected in enumerate(versions):
        found = DeltaTable(tmp_path / "out/delta/delta", version=number).to_pyarrow_table()
        assert _answers(found) == _answers(expected)
        assert found.sort_by("uri").column("etag_or_mtime") == expected.column("etag_or_mtime")
    if isinstance(there, Moto):  # the library itself, with the settings that a user has
        found = DeltaTable(there.uri("out/delta/delta"), storage_options={"AWS_ALLOW_HTTP": "1"})
        assert found.version() == 2 and found.to_pyarrow_table().num_rows == 20


def test_objects_that_only_moved_keep_their_rows(there, photos, tmp_path):
    """What the listing says of their bytes tells it: no object is read, none is asked for."""
    names = sorted(os.listdir(photos))
    for name in names[:10]:
        there.put(f"in/disk/old/{name}", (photos / name).read_bytes())
    command = ["-m", "zipfile", "-c", f"{tmp_path}/a.zip", *names[10:14]]
    subprocess.run([sys.executable, *command], cwd=photos, check=True)
    there.put("in/disk/a.zip", (tmp_path / "a.zip").read_bytes())
    assert _classify(there, "out/disk", source="in/disk") == 0
    before = _answers(_table(there, "out/disk"))
    for name in names[:8]:
        there.put(f"in/disk/new/{name}", there.get(f"in/disk/old/{name}"))
        store.delete(there.uri(f"in/disk/old/{name}"))
    there.put("in/disk/b.zip", there.get("in/disk/a.zip"))
    store.delete(there.uri("in/disk/a.zip"))
    there.put(f"in/disk/new/{names[20]}", (photos / names[8]).read_bytes())  # the old one is there
    with there.harm():
        assert _classify(there, "out/disk", "--drop-gone", source="in/disk") == 0
        asked = [
            line
            for line in there.requests
            if re.search(r"in(/|%2F)disk(/|%2F)(old.*jpg|a\.zip)", line)
        ]
    report = _report(there, "out/disk")
    tells = not there.root.startswith("az")  # its versions say nothing of the bytes
    assert report["totals"]["moved"] == (12 if tells else 0)
    assert report["rates"]["images"] == (1 if tells else 13)
    assert not asked or not tells
    after = _table(there, "out/disk").to_pylist()
    answers = {os.path.basename(row["uri"]): (row["label"], row["score"]) for row in after}
    assert len(after) == 15
    assert {name: answers[name.replace("a.zip", "b.zip")] for name in before} == before
    listed = {row["uri"]: row["etag_or_mtime"] for row in after}
    versions = {
        found.uri: found.version for found in store.store_of(there.root).list(there.uri("in/disk/"))
    }
    assert all(versions[uri.partition("#")[0]] == version for uri, version in listed.items())
    assert _classify(there, "out/disk", source="in/disk") == 0
    assert _report(there, "out/disk")["totals"]["already_listed"] == 15


def test_a_list_in_a_store(there):
    lines = ["uri,taken"]
    lines += [f"{there.uri(name)},{at}" for at, name in enumerate(there.names("in/photos/"))]
    lines += ["../in/photos/nowhere.jpg,99", "../in/./photos/00001.jpg,98"]
    lines.remove(next(line for line in lines if "00001.jpg,1" in line))
    there.put("lists/all.csv", "\n".join(lines).encode())
    assert _classify(there, "out/manifest", source="lists/all.csv") == 0
    rows = _table(there, "out/manifest").to_pylist()
    assert sorted(row["taken"] for row in rows) == sorted({*range(PHOTOS), 98, 99} - {1})
    assert {row["taken"]: row["status"] for row in rows}[99] == "not_found"
    assert {row["taken"]: row["uri"] for row in rows}[98] == there.uri("in/photos/00001.jpg")


def test_an_inventory_takes_the_place_of_a_listing(there):
    """No listing, no question about an image, one read each; and the same rows."""
    root = there.root + "/"
    found = list(store.store_of(root).list(root + "in/photos/"))
    if root.startswith("gs"):
        lines = ["bucket,name,size,generation,etag,timeDeleted,updated"]
        for uri, size, version, *_ in found:
            lines.append(f"{BUCKET},{uri.removeprefix(root)},{size},{version},CAE=,,2026-11-01")
        lines.append(lines[1].replace(",,2026", ",2026-10-01,2026"))
        inventory = "lists/inventory.csv"
        there.put(inventory, "\n".join(lines).encode())
    elif root.startswith("s3"):
        inventory = "lists/b/all/2026-11-01T00-00Z/manifest.json"
        lines = [
            f'"{BUCKET}","{quote_plus(uri.removeprefix(root))}","true","false","{size}","{version}"'
            for uri, size, version, *_ in found
        ]
        lines.append(lines[0].replace('"true","false"', '"true","true"'))
        there.put("lists/b/all/data/1.csv.gz", gzip.compress("\n".join(lines).encode()))
        said = {"destinationBucket": f"arn:aws:s3:::{BUCKET}", "fileFormat": "CSV",
                "fileSchema": "Bucket, Key, IsLatest, IsDeleteMarker, Size, ETag",
                "files": [{"key": "lists/b/all/data/1.csv.gz"}]}  # fmt: skip
        there.put(inventory, json.dumps(said).encode())
    else:
        pytest.skip("Azure's inventories are not read")
    with there.harm():
        assert _classify(there, "out/inventory", source=inventory) == 0
        about = [line for line in there.requests if re.search(r"in(/|%2F)photos", line)]
    assert len(about) == PHOTOS
    assert all(re.match(there.reading(r"in(/|%2F)photos"), line) for line in about)
    assert _report(there, "out/inventory")["totals"]["left_out"].keys() <= {"versions", "markers"}
    assert _classify(there, "out/listed") == 0
    first, second = (_table(there, f"out/{name}") for name in ("inventory", "listed"))
    assert first.to_pylist() == second.to_pylist()


def test_a_glob_in_a_store(there):
    assert _classify(there, "out/glob", source="in/ph*/**/0000[12].*") == 0
    assert sorted(_answers(_table(there, "out/glob"))) == ["00001.jpg", "00002.jpg"]


def test_an_archive_is_read_by_ranges_of_bytes(there, photos, expected, tmp_path):
    for kind in ("zip", "tar"):
        command = ["-m", "zipfile", "-c"] if kind == "zip" else ["-m", "tarfile", "-c"]
        names = sorted(os.listdir(photos))
        subprocess.run([sys.executable, *command, f"{tmp_path}/a.{kind}", *names],
                       cwd=photos, check=True)  # fmt: skip
        there.put(f"packed/a.{kind}", (tmp_path / f"a.{kind}").read_bytes())
        assert _classify(there, f"out/{kind}", source=f"packed/a.{kind}") == 0
        answers = _table(there, f"out/{kind}").to_pylist()
        assert {row["uri"].partition("#")[2]: (row["label"], row["score"]) for row in answers} == (
            expected
        )


def test_names_that_need_care(there, photos):
    data = (photos / "00000.jpg").read_bytes()
    names = ["a b.jpg", "ü.jpg", "50%.jpg", "50%25.jpg", "x+y.jpg", "[1].jpg", "q&a=b.jpg"]
    for name in names:
        there.put(f"in/care/{name}", data)
    assert _classify(there, "out/care", source="in/care") == 0
    rows = _table(there, "out/care").to_pylist()
    assert sorted(row["uri"] for row in rows) == sorted(there.uri(f"in/care/{n}") for n in names)
    assert {row["status"] for row in rows} == {"ok"}


@pytest.mark.parametrize(
    "what, fault",
    [
        ("read", Fault("", 503, times=20)),
        ("read", Fault("", "reset", times=15)),
        ("read", Fault("", "truncate", times=15)),
        ("read", Fault("", "corrupt", times=2)),
        ("read", Fault("", "slow", times=5, seconds=0.5)),
        ("list", Fault("", 503, times=4)),
        ("write", Fault("", 503, times=6)),
        ("write", Fault("", "reset", times=4)),
        ("all", Fault("", 429, times=20)),
    ],
    ids=lambda value: str(getattr(value, "action", value)),
)
def test_passing_faults_pass(there, expected, what, fault, request):
    if fault.action == "corrupt" and not there.root.startswith("gs"):
        pytest.skip("only Google's client compares checksums; TLS guards the way of the others")
    patterns = {"read": there.reading(r"in(/|%2F)photos(/|%2F)"), "list": there.listing}
    pattern = (patterns | {"write": there.writing, "all": " "})[what]
    output = f"out/passing-{what}-{fault.action}"
    fault = dataclasses.replace(fault, pattern=pattern)
    with there.harm(fault):
        assert _classify(there, output, page=True) == 0
        assert not fault.times, "the fault was not met"
    assert _answers(_table(there, output)) == expected
    assert _report(there, output)["totals"]["balanced"]


def test_lasting_faults_become_rows_and_are_retried(there, expected, monkeypatch):
    monkeypatch.setattr(protocol, "RETRY_SECONDS", 1.0)
    forget_clients()
    statuses = {
        "00003.jpg": (404, "not_found"),
        "00004.jpg": (403, "permission_denied"),
        "00005.jpg": (503, "read_error"),
        "00006.jpg": ("truncate", "read_error"),
        "00007.jpg": ("reset", "read_error"),
    }
    faults = [Fault(there.reading(name), action) for name, (action, _) in statuses.items()]
    with there.harm(*faults):
        assert _classify(there, "out/lasting", page=True) == 0
    rows = _table(there, "out/lasting").to_pylist()
    failed = {os.path.basename(row["uri"]): row for row in rows if row["error"]}
    assert {name: row["status"] for name, row in failed.items()} == {
        name: status for name, (_, status) in statuses.items()
    }
    for row in failed.values():
        assert "Traceback" not in row["error"] and "\n" not in row["error"]
    totals = _report(there, "out/lasting")["totals"]
    assert (totals["predicted"], totals["failed"], totals["balanced"]) == (PHOTOS - 5, 5, True)
    assert _classify(there, "out/lasting", "--retry-failed") == 0
    assert _answers(_table(there, "out/lasting")) == expected


def test_an_object_replaced_after_listing_is_not_taken_for_the_listed_one(there):
    uri = there.uri("in/moves/a.png")
    store.write(uri, b"old")
    version = next(list_images((uri,))).column("etag_or_mtime")[0].as_py()
    store.write(uri, b"new")
    with pytest.raises(FileNotFoundError, match="replaced"):
        store.read(uri, version)
    if not uri.startswith("gs"):  # where fake-gcs-server does not look at the condition
        with pytest.raises(OSError, match="replaced"):
            store.store_of(uri).read_range(uri, 0, 2, version)
    assert store.read(uri) == b"new"
    assert store.store_of(uri).read_range(uri, 1, 100) == b"ew"
    assert store.store_of(uri).read_range(uri, 3, 100) == b""


@pytest.mark.parametrize(
    "mistake, told",
    [
        ("no bucket", "nowhere"),
        ("no prefix", "no objects there"),
        ("no model", "none"),
        ("unwritable", "cannot be written"),
        ("unlistable", "cannot be listed"),
    ],
)
def test_mistakes_are_reported_in_a_sentence(there, tiny_model, capfd, mistake, told):
    source = {"no bucket": there.root + "nowhere/photos", "no prefix": there.uri("no/such")}
    model = there.uri("none") if mistake == "no model" else tiny_model
    faults = {"unwritable": Fault(there.writing, 403), "unlistable": Fault(there.listing, 403)}
    command = ["classify", source.get(mistake, there.uri("in/photos")), f"--model={model}"]
    with there.harm(*[faults[mistake]] if mistake in faults else []):
        assert main([*command, f"--output={there.uri('out/x')}"]) == 2
    said = capfd.readouterr().err
    assert told in said
    assert "Traceback" not in said and "Debug" not in said


def test_one_run_at_a_time_and_none_waits_for_the_dead(there):
    location = there.uri("out/locked/_imagecensus/lock")
    with lock.Lock(location), pytest.raises(store.StorageError, match="another run"):
        lock.Lock(location).__enter__()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    left = {"host": os.uname().nodename, "pid": int(dead.stdout), "began": 1}
    there.put("out/locked/_imagecensus/lock", json.dumps(left).encode())
    with lock.Lock(location):
        assert str(os.getpid()).encode() in there.get("out/locked/_imagecensus/lock")
    assert not there.names("out/locked")


def test_a_machine_of_the_same_name_is_not_taken_for_this_one(there):
    """Two containers, or two machines called localhost: a process there is not one here."""
    location = there.uri("out/namesake/_imagecensus/lock")
    left = {"host": os.uname().nodename, "machine": "another", "pid": 2**22 + 1, "began": 1}
    there.put("out/namesake/_imagecensus/lock", json.dumps(left).encode())
    with pytest.raises(store.StorageError, match="another run"):
        lock.Lock(location).__enter__()


def test_a_lease_is_judged_by_the_store_s_clock(there, monkeypatch):
    """The lock of a run on another machine, whose clock and ours may differ by hours."""
    location = there.uri("out/leased/_imagecensus/lock")
    left = json.dumps({"host": "elsewhere", "pid": 1, "began": 1}).encode()
    there.put("out/leased/_imagecensus/lock", left)
    hours_later = time.time() + 10_000
    monkeypatch.setattr(time, "time", lambda: hours_later)
    with pytest.raises(store.StorageError, match=r"another run.*elsewhere:1"):
        lock.Lock(location).__enter__()
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.05)
    time.sleep(1.1)  # some stores tell whole seconds
    with lock.Lock(location):
        pass
    assert not there.names("out/leased"), "nothing may be left"


def test_a_run_that_lost_its_lease_learns_of_it(there, monkeypatch):
    """A laptop that slept: meanwhile another run took the output over."""
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.4)
    location, lost = there.uri("out/lost/_imagecensus/lock"), threading.Event()
    with lock.Lock(location, lost.set) as mine:
        mine.check_held()
        other = json.dumps({"host": "elsewhere", "pid": 1, "began": 1}).encode()
        there.put("out/lost/_imagecensus/lock", other)
        assert lost.wait(20)
        with pytest.raises(store.StorageError, match="taken over by another run"):
            mine.check_held()
    assert there.get("out/lost/_imagecensus/lock") == other, "the lock of the other stays"


def test_a_renewed_lease_is_of_another_version(there):
    """An ETag may be a digest of the bytes: who saw the lock before its renewal must not win."""
    lease = lock.Lease(there.uri("out/renewed/lock"))
    assert lease._put("")
    before = lease._look()[0]
    assert lease._put(before)
    assert lease._look()[0] != before
    assert not lock.Lease(lease.uri)._put(before)
    store.delete(lease.uri)


def test_a_store_that_keeps_no_conditions_is_no_output(there, tiny_model, capfd):
    if not isinstance(there, Moto):
        pytest.skip("the others' requests are signed with their conditions: these cannot get lost")
    flags = [there.uri("in/photos"), f"--model={tiny_model}", f"--output={there.uri('out/blind')}"]
    there.blind = True
    try:
        assert main(["classify", *flags]) == 2
        assert main(["doctor", *flags]) == 1
    finally:
        there.blind = False
    said = capfd.readouterr()
    for text in (said.err, said.out):
        assert "choose an --output in a store that keeps conditions" in text
    assert not there.names("out/blind")


def test_shards_make_the_table_of_one_run(there):
    assert _classify(there, "out/one") == 0
    for shard in ("0/2", "1/2"):
        assert _classify(there, "out/shards", f"--shard={shard}") == 0
    assert _table(there, "out/shards") == _table(there, "out/one")
    assert _classify(there, "out/shards") == 0, "the closing run finds nothing to do"
    report = _report(there, "out/shards")
    assert report["rates"]["images"] == 0
    assert (report["totals"]["rows"], report["totals"]["balanced"]) == (PHOTOS, True)


def test_a_shard_and_the_whole_exclude_each_other(there, capfd):
    output = there.uri("out/mixed")
    with lock.Lock(Layout(output=output, shard=(0, 2)).lock):
        assert _classify(there, "out/mixed") == 2
    with lock.Lock(Layout(output=output).lock):
        assert _classify(there, "out/mixed", "--shard=1/2") == 2
    assert capfd.readouterr().err.count("another run is writing to this output") == 2


def _doctor(there, *faults) -> int:
    flags = [f"--model={there.uri('models/tiny')}", f"--output={there.uri('out/doctor')}"]
    with there.harm(*faults):
        return main(["doctor", there.uri("in/photos"), *flags])


def test_doctor_looks_at_the_store(there, capfd):
    assert _doctor(there) == 0
    said = capfd.readouterr().out
    assert f"{there.uri('out/doctor')}: can be written and read" in said
    assert f"{there.uri('in/photos/00000.jpg')} can be read" in said
    assert not there.names("out/doctor"), "nothing may be left"


@pytest.mark.parametrize(
    "what, told",
    [
        ("write", "cannot be written"),
        ("list", "cannot be listed"),
        ("read", "permission_denied"),
        ("model", "models"),
    ],
)
def test_doctor_finds_what_the_store_forbids(there, capfd, what, told):
    patterns = {
        "write": there.writing,
        "list": rf"{there.listing}.*photos",
        "model": "GET .*models",
    }
    pattern = patterns.get(what) or there.reading(r"in(/|%2F)photos(/|%2F)")
    assert _doctor(there, Fault(pattern, 403)) == 1
    said = capfd.readouterr().out.splitlines()
    [at] = [at for at, line in enumerate(said) if line.startswith("fail")]
    assert told in said[at]
    assert "->" in said[at + 1]


def test_few_requests_an_image(there):
    """One for each image, and few for everything else."""
    pattern = there.reading(r"in(/|%2F)photos(/|%2F)0")
    with there.harm():
        assert _classify(there, "out/count") == 0
        assert sum(bool(re.search(pattern, line)) for line in there.requests) == PHOTOS
        assert len(there.requests) < 4 * PHOTOS


def test_other_commands_read_and_write_there(there, tmp_path, capfd):
    """What is done with a finished table, with a model, and before a run."""
    output, truth = there.uri("out/others"), there.uri("lists/truth.csv")
    assert _classify(there, "out/others", "--embeddings") == 0
    rows = _table(there, "out/others").to_pylist()
    lines = ["uri,label"] + [f"{row['uri']},{row['label']}" for row in rows]
    there.put("lists/truth.csv", "\n".join(lines).encode())
    capfd.readouterr()
    assert main(["evaluate", output, f"--labels={truth}"]) == 0
    assert "100" in capfd.readouterr().out
    there.put("out/others/report.html", b"old")
    assert main(["report", output]) == 0
    assert there.get("out/others/report.html").lstrip().startswith(b"<!")
    capfd.readouterr()
    assert main(["similar", output, rows[3]["uri"], "--top=2", "--json"]) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(found) == 2
    assert {row["uri"] for row in found} <= {row["uri"] for row in rows}
    command = [rows[0]["uri"], f"--model={there.uri('models/tiny')}", "--json"]
    assert main(["predict", *command]) == 0
    row = json.loads(capfd.readouterr().out)
    assert (row["uri"], row["label"]) == (rows[0]["uri"], rows[0]["label"])
    lines = ["uri,label"] + [f"{row['uri']},{at % 2}" for at, row in enumerate(rows)]
    there.put("lists/train.csv", "\n".join(lines).encode())
    learnt = read_training_data(there.uri("lists/train.csv"), SplitFractions(val=0, test=0))
    assert len(learnt.splits["train"].names) == PHOTOS
    assert next(iter(learnt.splits["train"].open()))() == there.get("in/photos/00000.jpg")


def test_plan_forecasts_with_the_prices_of_the_store(there, capfd):
    flags = [f"--model={there.uri('models/tiny')}", "--sample=24"]
    assert main(["plan", there.uri("in/photos"), *flags]) == 0
    said = capfd.readouterr().out
    name = {"gs": "Google's", "s3": "Amazon's", "az": "Microsoft's"}[there.root[:2]]
    assert f"{name} list prices" in said
    assert "egress" in said or "leav" in said


@pytest.mark.parametrize("fault", [403, 400, 503, "reset"], ids=str)
def test_no_secret_is_reported(there, tmp_path, tiny_model, capfd, monkeypatch, fault):
    """Not by errors, whose addresses may be signed, nor by logs, reports and rows."""
    secret = "czNjcjN0VjRsdTNYWVo"
    planted = {
        "gs": {},
        "s3": {"AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": secret,
               "AWS_ENDPOINT_URL": there.url.replace("://", f"://user:{secret}@")},
        "az": {"AZURE_STORAGE_SAS_TOKEN": f"sv=2021-08-06&sp=r&sig={secret}%3D"},
    }  # fmt: skip
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY", raising=False)
    for name, value in planted[there.root[:2]].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lease, "_open", [])  # decoders that see the secret
    monkeypatch.setattr(protocol, "RETRY_SECONDS", 0.3)
    forget_clients()
    (tmp_path / "list.txt").write_text(f"{there.uri('in/photos/00000.jpg')}\n")
    here, model = f"--output={tmp_path}/out", f"--model={tiny_model}"
    with there.harm(Fault(" ", fault)):
        flags = (here, model, "--max-failure-rate=1", "--log-json")
        assert main(["classify", f"{tmp_path}/list.txt", *flags]) == 0
        for command in ("classify", "doctor"):
            assert main([command, there.uri("in"), here, model]) > 0
            assert main([command, str(tmp_path), f"--output={there.uri('out/x')}", model]) > 0
        assert main(["predict", there.uri("in/photos/00000.jpg"), model]) > 0
        assert there.requests
    gc.collect()  # what a refused run has begun gives its decoders back to the list of this test
    told = "".join(capfd.readouterr()).encode()
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 3
    rows = pq.read_table(tmp_path / "out" / "predictions").to_pylist()
    told += json.dumps(rows, default=str).encode()
    assert b"in/photos/00000.jpg" in told
    for text in (told, *written):
        assert secret.encode() not in text


_DOC = (pathlib.Path(__file__).parents[2] / "docs" / "stores.md").read_text("utf-8")
_PRINTED = [line for block in re.findall(r"```sh\n(.*?)```", _DOC, re.S)
            for line in block.splitlines() if line.startswith("imagecensus")]  # fmt: skip


def test_the_commands_of_the_page_run_as_printed(there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scheme = there.root.partition(":")[0]
    kinds = {"gs": ("gs://",), "s3": ("s3://",), "az": ("az://", "abfss://")}[scheme]
    printed = [line for line in _PRINTED if line.split()[2].startswith(kinds)]
    printed = [line for line in printed if "manifest.json" not in line]  # inventories: above
    assert printed
    for name in there.names("in/photos/")[:2]:
        there.put(name.replace("in/photos", "photos"), there.get(name))
    for name in there.names("models/tiny/"):
        there.put(name.replace("models/tiny", "model"), there.get(name))
    for line in printed:
        words = re.sub("BUCKET|CONTAINER", BUCKET, line).replace("museum", "devstoreaccount1")
        words = words.replace("//census/out", f"//census/out/{len(words)}")
        model = [] if "--model" in words else [f"--model={there.uri('model')}"]
        assert main([*shlex.split(words)[1:], *model, "--no-report"]) == 0


def test_the_page_has_a_command_for_each_place(monkeypatch):
    monkeypatch.setattr(ClassifyOptions, "problems", lambda options: [])  # paths are made up
    sections = re.split(r"^## ", _DOC, flags=re.M)
    titles = ("S3", "Azure", "Google", "The web", "Museum", "Hugging Face")
    for title in titles:
        [section] = [section for section in sections if section.startswith(title)]
        assert re.search(r"^imagecensus classify", section, re.M)
    for line in _PRINTED:
        words = shlex.split(line, comments=True)
        assert not ClassifyOptions.parse(words[2:], "imagecensus classify").beam_args
