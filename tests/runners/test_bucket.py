"""What is Google's own of the job on gs://; tests/runners/test_stores.py runs on every store."""

from __future__ import annotations

import http.server
import json
import os
import re
import zipfile

import fetch_engines
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gcs_server import BUCKET, Emulator, Fault
from samples import make_photos
from web_server import serving

from imagecensus.jobs.cli import main
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.storage import gcs as gcs_store
from imagecensus.transforms.storage import protocol, store

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
def client(gcs, monkeypatch, tmp_path, own_decoders):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
    monkeypatch.setattr(protocol, "RETRY_PAUSE", (0.02, 0.2))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gcs_store.bucket_client.cache_clear()
    yield
    gcs_store.bucket_client.cache_clear()


def _classify(gcs, output, *flags, source="in/photos") -> int:
    command = ["classify", f"gs://{BUCKET}/{source}", f"--model=gs://{BUCKET}/models/tiny"]
    command += [f"--output=gs://{BUCKET}/{output}", "--unit-images=8", *flags]
    return main(command)


def test_a_long_listing_comes_whole_and_the_same_each_time(gcs, tiny_model, capfd):
    """10,000 objects in pages of a thousand, all folders at once; through the command line, too."""
    names = [f"many/{at % 4}/{at:05d}.jpg" for at in range(10_000)]
    gcs.put("template.jpg", b"x")
    gcs.put_copies("template.jpg", [*names, "many/top.jpg", "manyother/no.jpg"])
    with gcs.harm(Fault(r"GET .*/o\?.*pageToken", 503, times=3)):
        batches = list(list_images((f"gs://{BUCKET}/many",)))
        listings = [line for line in gcs.requests if "/o?" in line]
        assert not gcs.faults[0].times
    assert len({re.search("prefix=([^&]*)", line)[1] for line in listings}) >= 4
    assert sum("pageToken" in line for line in listings) == 4 * 2 + 3, "2,500 in each folder"
    listed = [uri for batch in batches for uri in batch.column("uri").to_pylist()]
    prefix = f"gs://{BUCKET}/"
    assert sorted(listed) == sorted(prefix + name for name in [*names, "many/top.jpg"])
    again = list(list_images((f"gs://{BUCKET}/many",)))
    assert [uri for batch in again for uri in batch.column("uri").to_pylist()] == listed
    assert all(batch.column("etag_or_mtime").to_pylist()[0].isdigit() for batch in batches)
    assert _classify(gcs, "out/many", "--dry-run", source="many") == 0
    assert "would classify 10,001 images" in capfd.readouterr().out


RUNNERS = [
    pytest.param(
        ["--runner=PrismRunner", f"--prism_location={fetch_engines.PRISM}"], id="prism",
        marks=pytest.mark.skipif(not fetch_engines.PRISM.is_file(), reason="no Prism"),
    ),
    pytest.param(
        ["--runner=FlinkRunner", "--flink_master=[local]", "--parallelism=2",
         f"--flink_version={fetch_engines.FLINK_MINOR}",
         f"--flink_job_server_jar={fetch_engines.job_server_jar()}"],
        id="flink",
        marks=[
            pytest.mark.flink,
            # Beam's thread for data sees its job server end, which is how a job ends here.
            pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize("runner", RUNNERS)
def test_workers_list_what_the_launcher_would(gcs, runner, tmp_path, capfd, request):
    """The same rows, archives and counts; a rerun does what is new, and no listing is left."""
    where = request.node.callspec.id
    source, out = f"in/listed-{where}", f"out/{where}"
    for at, photo in enumerate(sorted(gcs.folder("in/photos").iterdir())):
        gcs.put(f"{source}/{at % 3}/{photo.name}", photo.read_bytes())
        gcs.put(f"{source}/{at % 3}/{photo.stem}.json", b"{}")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inside.jpg", photo.read_bytes())
    gcs.put(f"{source}/0/a.zip", (tmp_path / "a.zip").read_bytes())
    gcs.put(f"{source}/.hidden.jpg", b"")
    assert _classify(gcs, f"{out}/here", source=source) == 0
    workers = ["--list-on-workers", *runner]
    gcs.put(f"{out}/workers/_imagecensus/listing-0123-dead.parquet", b"of a run that was killed")
    assert _classify(gcs, f"{out}/workers", *workers, source=source) == 0
    found = {}
    for name in ("here", "workers"):
        parts = gcs.folder(f"{out}/{name}/predictions").iterdir()
        found[name] = pa.concat_tables(map(pq.read_table, parts)).sort_by("uri").to_pylist()
        report = json.loads(gcs.get(f"{out}/{name}/run_report.json"))
        found[name].append([report["totals"][key] for key in ("left_out", "listed")])
    assert found["workers"] == found["here"] and len(found["here"]) == PHOTOS + 2
    assert not [n for n in gcs.names(f"{out}/workers/_imagecensus") if "listing" in n or "job" in n]
    gcs.put(f"{source}/1/new.jpg", photo.read_bytes())
    capfd.readouterr()
    assert _classify(gcs, f"{out}/workers", *workers, "--dry-run", source=source) == 0
    assert "would classify 1 image in 1 unit" in capfd.readouterr().out
    assert _classify(gcs, f"{out}/workers", *workers, source=source) == 0
    assert "= 1 new + 31 known" in capfd.readouterr().out
    assert _classify(gcs, f"{out}/nothing", *workers, source="in/nowhere/") == 2
    assert "no objects there" in capfd.readouterr().err


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

    with serving(Proxy) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://bucket.example")
        monkeypatch.setenv("http_proxy", server.url)
        gcs_store.bucket_client.cache_clear()
        try:
            assert store.read("gs://photos/a.jpg") == b"pic"
        finally:
            gcs_store.bucket_client.cache_clear()
    assert asked[0].startswith("http://bucket.example/")
