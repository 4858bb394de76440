"""The job on a bucket, through the command line, with a network that misbehaves."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time

import fetch_engines
import pyarrow.parquet as pq
import pytest
from gcs_server import BUCKET, Emulator, Fault
from samples import make_photos

from imagecensus.jobs.cli import main
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.storage import gcs as gcs_store
from imagecensus.transforms.storage import lock, protocol, store

pytestmark = [
    pytest.mark.gcs,
    pytest.mark.skipif(
        not fetch_engines.FAKE_GCS.is_file(),
        reason="no bucket emulator in the user's cache; make bucket-emulator builds it (needs Go)",
    ),
]
PHOTOS = 30


@pytest.fixture(scope="module")
def gcs(tmp_path_factory, tiny_model):
    emulator = Emulator(tmp_path_factory.mktemp("buckets"))
    emulator.start()
    photos = tmp_path_factory.mktemp("photos")
    make_photos(photos, PHOTOS)
    emulator.put_tree("in/photos", photos)
    emulator.put_tree("models/tiny", tiny_model)
    yield emulator
    emulator.stop()


@pytest.fixture(autouse=True)
def client(gcs, monkeypatch, tmp_path):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
    monkeypatch.setattr(protocol, "RETRY_PAUSE", (0.02, 0.2))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gcs_store.bucket_client.cache_clear()
    yield
    gcs_store.bucket_client.cache_clear()


@pytest.fixture(scope="module")
def expected(gcs, tiny_model, tmp_path_factory):
    """label and score by name, from the same photos on disk."""
    output = tmp_path_factory.mktemp("expected")
    photos = str(gcs.folder("in/photos"))
    assert main(["classify", photos, f"--model={tiny_model}", f"--output={output}"]) == 0
    return _answers(f"{output}/predictions")


def _answers(folder) -> dict:
    rows = pq.read_table(folder).to_pylist()
    answers = {os.path.basename(row["uri"]): (row["label"], row["score"]) for row in rows}
    assert len(answers) == len(rows)
    return answers


def _classify(gcs, output, *flags, source="in/photos") -> int:
    command = ["classify", f"gs://{BUCKET}/{source}", f"--model=gs://{BUCKET}/models/tiny"]
    command += [f"--output=gs://{BUCKET}/{output}", "--unit-images=8", *flags]
    return main(command)


def _rows(gcs, output) -> list[dict]:
    return pq.read_table(gcs.folder(f"{output}/predictions")).sort_by("uri").to_pylist()


def _report(gcs, output) -> dict:
    return json.loads(gcs.get(f"{output}/run_report.json"))


def test_everything_in_a_bucket(gcs, expected):
    assert _classify(gcs, "out/all") == 0
    assert _answers(gcs.folder("out/all/predictions")) == expected
    assert _report(gcs, "out/all")["totals"]["balanced"]
    assert gcs.get("out/all/report.html").lstrip().startswith(b"<!")
    assert not [name for name in gcs.names("out/all") if name.endswith("lock")]


def test_resume_adds_what_is_new_and_redoes_what_is_lost(gcs, expected):
    for name in gcs.names("in/photos")[:20]:
        gcs.put(name.replace("in/photos", "in/grows"), gcs.get(name))
    assert _classify(gcs, "out/grows", source="in/grows") == 0
    first = {name: gcs.get(name) for name in gcs.names("out/grows/predictions")}
    lost = sorted(first)[0]
    gcs.delete(lost)
    for name in gcs.names("in/photos")[20:]:
        gcs.put(name.replace("in/photos", "in/grows"), gcs.get(name))
    assert _classify(gcs, "out/grows", source="in/grows") == 0
    assert _answers(gcs.folder("out/grows/predictions")) == expected
    assert all(gcs.get(name) == data for name, data in first.items() if name != lost)


def test_a_manifest_in_a_bucket(gcs):
    lines = ["uri,taken"]
    lines += [f"gs://{BUCKET}/{name},{at}" for at, name in enumerate(gcs.names("in/photos"))]
    lines += ["../in/photos/nowhere.jpg,99"]
    gcs.put("lists/all.csv", "\n".join(lines).encode())
    assert _classify(gcs, "out/manifest", source="lists/all.csv") == 0
    rows = _rows(gcs, "out/manifest")
    assert sorted(row["taken"] for row in rows) == [*range(PHOTOS), 99]
    assert [row["status"] for row in rows if row["taken"] == 99] == ["not_found"]


def test_a_long_listing_comes_whole_and_in_order(gcs, tiny_model, capfd):
    """20,000 objects in pages of a thousand, folder by folder; through the command line, too."""
    names = [f"many/{at % 8}/{at:05d}.jpg" for at in range(20_000)]
    gcs.put("template.jpg", b"x")
    gcs.put_copies("template.jpg", [*names, "many/top.jpg", "manyother/no.jpg"])
    with gcs.harm(Fault(r"GET .*/o\?.*pageToken", 503, times=3)):
        batches = list(list_images((f"gs://{BUCKET}/many",)))
        listings = [line for line in gcs.requests if "/o?" in line]
        assert not gcs.faults[0].times
    assert len({re.search("prefix=([^&]*)", line)[1] for line in listings}) >= 8
    assert sum("pageToken" in line for line in listings) == 8 * 2 + 3, "2,500 in each folder"
    listed = [uri for batch in batches for uri in batch.column("uri").to_pylist()]
    prefix = f"gs://{BUCKET}/"
    assert listed == [prefix + "many/top.jpg", *sorted(prefix + name for name in names)]
    assert all(batch.column("etag_or_mtime").to_pylist()[0].isdigit() for batch in batches)
    assert _classify(gcs, "out/many", "--dry-run", source="many") == 0
    assert "would classify 20,001 images" in capfd.readouterr().out


@pytest.mark.parametrize(
    "fault",
    [
        Fault(r"GET .*/o/in%2Fphotos%2F", 503, times=40),
        Fault(r"GET .*photos.*alt=media", "reset", times=15),
        Fault(r"GET .*photos.*alt=media", "truncate", times=15),
        Fault(r"GET .*photos.*alt=media", "corrupt", times=2),
        Fault(r"GET .*photos.*alt=media", "slow", times=5, seconds=0.5),
        Fault(r"GET .*/o\?", 503, times=4),
        Fault(r"POST /upload", 503, times=6),
        Fault(r"POST /upload", "reset", times=4),
        Fault(r" ", 429, times=20),
    ],
    ids=lambda fault: f"{fault.action}-{fault.pattern.split()[0] if fault.pattern.strip() else ''}",
)
def test_passing_faults_pass(gcs, expected, fault, request):
    output = f"out/passing-{abs(hash(request.node.name))}"
    with gcs.harm(fault):
        assert _classify(gcs, output) == 0
        assert not fault.times, "the fault was not met"
    assert _answers(gcs.folder(f"{output}/predictions")) == expected
    assert _report(gcs, output)["totals"]["balanced"]


def test_lasting_faults_become_rows_and_are_retried(gcs, expected, monkeypatch):
    monkeypatch.setattr(protocol, "RETRY_SECONDS", 1.0)
    faults = [
        Fault(r"GET .*00003.jpg", 404),
        Fault(r"GET .*00004.jpg", 403),
        Fault(r"GET .*00005.jpg", 503),
        Fault(r"GET .*00006.jpg", "truncate"),
        Fault(r"GET .*00007.jpg", "reset"),
        Fault(r"GET .*00008.jpg", "corrupt"),
    ]
    with gcs.harm(*faults):
        assert _classify(gcs, "out/lasting") == 0
    failed = {os.path.basename(r["uri"]): r for r in _rows(gcs, "out/lasting") if r["error"]}
    assert {name: row["status"] for name, row in failed.items()} == {
        "00003.jpg": "not_found",
        "00004.jpg": "permission_denied",
        "00005.jpg": "read_error",
        "00006.jpg": "read_error",
        "00007.jpg": "read_error",
        "00008.jpg": "read_error",
    }
    assert all("Traceback" not in row["error"] for row in failed.values())
    totals = _report(gcs, "out/lasting")["totals"]
    assert (totals["predicted"], totals["failed"], totals["balanced"]) == (PHOTOS - 6, 6, True)
    assert _classify(gcs, "out/lasting", "--retry-failed") == 0
    assert _answers(gcs.folder("out/lasting/predictions")) == expected


def test_an_object_replaced_after_listing_is_not_taken_for_the_listed_one(gcs):
    gcs.put("in/moves/a.png", b"old")
    uri = f"gs://{BUCKET}/in/moves/a.png"
    listed = next(list_images((uri,)))
    gcs.put("in/moves/a.png", b"new")
    with pytest.raises(FileNotFoundError, match="replaced"):
        store.read(uri, listed.column("etag_or_mtime")[0].as_py())
    assert store.read(uri) == b"new"


@pytest.mark.parametrize(
    "flags, fault, told",
    [
        (["gs://nowhere/photos"], None, "gs://nowhere/photos"),
        ([f"gs://{BUCKET}/no/such/prefix"], None, "no objects there"),
        ([f"gs://{BUCKET}/in/photos", f"--model=gs://{BUCKET}/none"], None, "none"),
        ([f"gs://{BUCKET}/in/photos"], Fault(r"POST /upload", 403), "cannot be written"),
        ([f"gs://{BUCKET}/in/photos"], Fault(r"GET .*/o\?", 403), "cannot be listed"),
    ],
)
def test_mistakes_are_told_in_a_sentence(gcs, tiny_model, capfd, flags, fault, told):
    command = ["classify", f"--model={tiny_model}", f"--output=gs://{BUCKET}/out/x", *flags]
    with gcs.harm(*[fault] if fault else []):
        assert main(command) == 2
    said = capfd.readouterr().err
    assert told in said
    assert "Traceback" not in said


def test_without_credentials_it_says_so_at_once(tmp_path, tiny_model, capfd, monkeypatch):
    """google-auth alone looks for a metadata server for some 21 seconds: it is not asked."""
    import google.auth

    for name in list(os.environ):
        if name.startswith(("GOOGLE", "STORAGE_", "GCE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    gcs_store.bucket_client.cache_clear()
    asked = []
    monkeypatch.setattr(google.auth, "default", lambda *_, **__: asked.append(1) or 1 / 0)
    [photo] = make_photos(tmp_path / "in", 1)
    here = {"input": photo, "output": f"{tmp_path}/out", "model": tiny_model}
    for place in here:
        given = here | {place: "gs://x/y"}
        command = [given["input"], f"--output={given['output']}", f"--model={given['model']}"]
        assert main(["classify", *command]) == 2
    assert capfd.readouterr().err.count("no credentials") == 3
    assert not asked


def test_the_environment_names_the_proxy(monkeypatch):
    asked = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"pic")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://bucket.example")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        gcs_store.bucket_client.cache_clear()
        try:
            assert store.read("gs://photos/a.jpg") == b"pic"
        finally:
            gcs_store.bucket_client.cache_clear()
            server.shutdown()
    assert asked[0].startswith("http://bucket.example/")


def test_one_run_at_a_time_and_none_waits_for_the_dead(gcs):
    location = f"gs://{BUCKET}/out/locked/_imagecensus/lock"
    with store.Lock(location), pytest.raises(store.StorageError, match="another run"):
        store.Lock(location).__enter__()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    left = {"host": os.uname().nodename, "pid": int(dead.stdout), "began": 1}
    gcs.put("out/locked/_imagecensus/lock", json.dumps(left).encode())
    with store.Lock(location):
        assert str(os.getpid()).encode() in gcs.get("out/locked/_imagecensus/lock")
    assert not gcs.names("out/locked")


def test_a_lease_is_judged_by_the_bucket_s_clock(gcs, monkeypatch):
    """The lock of a run on another machine, whose clock and ours may differ by hours."""
    location = f"gs://{BUCKET}/out/leased/_imagecensus/lock"
    left = json.dumps({"host": "elsewhere", "pid": 1, "began": 1}).encode()
    gcs.put("out/leased/_imagecensus/lock", left)
    hours_later = time.time() + 10_000
    monkeypatch.setattr(time, "time", lambda: hours_later)
    with pytest.raises(store.StorageError, match=r"another run.*elsewhere:1"):
        store.Lock(location).__enter__()
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.05)
    time.sleep(0.1)
    with store.Lock(location):
        pass
    assert not gcs.names("out/leased"), "nothing may be left"


def test_shards_make_the_table_of_one_run(gcs):
    assert _classify(gcs, "out/one", "--no-report") == 0
    for shard in ("0/2", "1/2"):
        assert _classify(gcs, "out/shards", f"--shard={shard}", "--no-report") == 0
    assert _rows(gcs, "out/shards") == _rows(gcs, "out/one")
    assert _classify(gcs, "out/shards") == 0, "the closing run finds nothing to do"
    report = _report(gcs, "out/shards")
    assert report["rates"]["images"] == 0
    assert (report["totals"]["rows"], report["totals"]["balanced"]) == (PHOTOS, True)


def test_a_shard_and_the_whole_exclude_each_other(gcs, capfd):
    output = f"gs://{BUCKET}/out/mixed"
    with store.Lock(Layout(output, (0, 2)).lock):
        assert _classify(gcs, "out/mixed") == 2
    with store.Lock(Layout(output).lock):
        assert _classify(gcs, "out/mixed", "--shard=1/2") == 2
    assert capfd.readouterr().err.count("another run is writing to this output") == 2


def _doctor(gcs, *faults) -> int:
    with gcs.harm(*faults):
        return main(
            ["doctor", f"gs://{BUCKET}/in/photos", f"--model=gs://{BUCKET}/models/tiny",
             f"--output=gs://{BUCKET}/out/doctor"]
        )  # fmt: skip


def test_doctor_looks_at_the_bucket(gcs, capfd):
    assert _doctor(gcs) == 0
    said = capfd.readouterr().out
    assert f"gs://{BUCKET}/out/doctor: can be written and read" in said
    assert f"gs://{BUCKET}/in/photos/00000.jpg can be read" in said
    assert not gcs.names("out/doctor"), "nothing may be left"


@pytest.mark.parametrize(
    "fault, told",
    [
        (Fault(r"POST /upload", 403), "cannot be written"),
        (Fault(r"GET .*/o\?.*photos", 403), "cannot be listed"),
        (Fault(r"GET .*photos.*alt=media", 403), "permission_denied"),
        (Fault(r"GET .*models", 403), "models"),
    ],
)
def test_doctor_finds_what_the_bucket_forbids(gcs, capfd, fault, told):
    assert _doctor(gcs, fault) == 1
    said = capfd.readouterr().out.splitlines()
    [at] = [at for at, line in enumerate(said) if line.startswith("fail")]
    assert told in said[at]
    assert "->" in said[at + 1]


def test_few_requests_an_image(gcs):
    """One for each image, and few for everything else."""
    with gcs.harm():
        assert _classify(gcs, "out/count", "--no-report") == 0
        media = [line for line in gcs.requests if "photos" in line and "alt=media" in line]
        assert len(media) == PHOTOS
        assert len(gcs.requests) < 3 * PHOTOS
