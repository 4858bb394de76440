"""A submission to Dataflow, as its REST endpoint would see it. The endpoint is a stand-in."""

from __future__ import annotations

import http.server
import json
import threading

import fetch_engines
import pytest
from gcs_server import BUCKET, Emulator
from samples import make_photos

from jobs.cli import main
from transforms import bucket

pytestmark = [
    pytest.mark.gcs,
    pytest.mark.skipif(
        not fetch_engines.FAKE_GCS.is_file(),
        reason="no bucket emulator in the user's cache; make bucket-emulator builds it (needs Go)",
    ),
]


class _Endpoint(http.server.BaseHTTPRequestHandler):
    """Takes a job and says that it is done, without doing it."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.jobs.append((self.path, json.loads(body)))
        self._answer({"currentState": "JOB_STATE_PENDING"})

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.split("?")[0].endswith(("/metrics", "/messages")):
            return self._send({})
        return self._answer({"currentState": "JOB_STATE_DONE"})

    def _answer(self, state):
        known = {"id": "job-1", "name": "census", "projectId": "project", "location": "region"}
        self._send(known | state)

    def _send(self, answer):
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def _speak_rest_to(port: int, monkeypatch) -> None:
    """Google's own client, over REST to the stand-in instead of gRPC and TLS to Google."""
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import dataflow

    def speaking_rest(real):
        def client(**_):
            transport = real.get_transport_class("rest")(
                host=f"127.0.0.1:{port}", credentials=AnonymousCredentials(), url_scheme="http"
            )
            return real(transport=transport)

        return client

    for name in ("JobsV1Beta3Client", "MessagesV1Beta3Client", "MetricsV1Beta3Client"):
        monkeypatch.setattr(dataflow, name, speaking_rest(getattr(dataflow, name)))
    monkeypatch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), "project"))


@pytest.fixture
def submitted(tiny_model, tmp_path, monkeypatch):
    """(path, body of the request, the pipeline that was staged, staged names)."""
    from apache_beam.portability.api import beam_runner_api_pb2

    gcs = Emulator(tmp_path / "buckets")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    server.jobs, server.asked = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    gcs.start()
    _speak_rest_to(server.server_port, monkeypatch)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bucket.bucket_client.cache_clear()
    make_photos(tmp_path / "photos", 20)
    gcs.put_tree("in", tmp_path / "photos")
    gcs.put_tree("model", tiny_model)
    main(
        ["classify", f"gs://{BUCKET}/in", f"--model=gs://{BUCKET}/model",
         f"--output=gs://{BUCKET}/out", "--unit-images=8", "--runner=DataflowRunner", "--no_auth",
         "--project=project",
         "--region=region", f"--temp_location=gs://{BUCKET}/tmp", "--job_name=census",
         "--sdk_container_image=registry/imagecensus:1", "--sdk_location=container",
         "--max_num_workers=7", "--autoscaling_algorithm=THROUGHPUT_BASED",
         "--machine_type=n2-standard-4"]
    )  # fmt: skip
    staged = gcs.names("tmp")
    pipeline = beam_runner_api_pb2.Pipeline()
    pipeline.ParseFromString(gcs.get(next(n for n in staged if n.endswith("pipeline.pb"))))
    yield *server.jobs[0], pipeline, staged
    server.shutdown()
    gcs.stop()
    bucket.bucket_client.cache_clear()


def test_the_job_that_arrives(submitted):
    path, job, pipeline, staged = submitted
    assert "/projects/project/locations/region/jobs" in path
    assert job["name"] == "census"
    pool = job["environment"]["workerPools"][0]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7
    assert pool["machineType"] == "n2-standard-4"
    images = [image["containerImage"] for image in pool["sdkHarnessContainerImages"]]
    assert images == ["registry/imagecensus:1"]
    packages = json.dumps(pool.get("packages", []))
    assert "main_session" not in packages
    assert "tests" not in packages
    assert not [name for name in staged if "main_session" in name or "tests" in name]
    transforms = pipeline.components.transforms
    names = [t.unique_name for t in transforms.values()]
    for stage in ("Units", "Reshuffle", "DecodeImages", "ClassifyImages", "WriteParts"):
        assert any(name.split("/")[0] == stage for name in names), stage
    shuffles = [t for t in transforms.values() if t.spec.urn == "beam:transform:group_by_key:v1"]
    assert shuffles
    assert all(t.unique_name.startswith(("Reshuffle", "Units")) for t in shuffles)
