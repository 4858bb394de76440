"""A submission to Dataflow, as its REST endpoint would see it. The endpoint is a stand-in."""

from __future__ import annotations

import dataclasses
import http.server
import io
import json
import tarfile
import threading

import fetch_engines
import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from gcs_server import BUCKET, Emulator
from google.cloud import dataflow
from samples import make_photos

from imagecensus.jobs.cli import main
from imagecensus.transforms.storage import gcs as gcs_store

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
        self._answer({"currentState": self.server.first_state})

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


@dataclasses.dataclass
class Submitted:
    """What came of one submission."""

    code: int
    jobs: list  # (path, body) of each request to create one
    gcs: Emulator
    said: str

    @property
    def pool(self) -> dict:
        return self.jobs[0][1]["environment"]["workerPools"][0]

    @property
    def experiments(self) -> list[str]:
        return self.jobs[0][1]["environment"]["experiments"]

    @property
    def pipeline(self) -> beam_runner_api_pb2.Pipeline:
        staged = next(name for name in self.gcs.names("tmp") if name.endswith("pipeline.pb"))
        return beam_runner_api_pb2.Pipeline.FromString(self.gcs.get(staged))


BEAM_FLAGS = [
    "--runner=DataflowRunner",
    "--no_auth",
    "--project=project",
    "--region=region",
    f"--temp_location=gs://{BUCKET}/tmp",
    "--job_name=census",
]
CLASSIFY = ("classify", f"gs://{BUCKET}/in")
IMAGE = "--sdk_container_image=registry/imagecensus:1"


@pytest.fixture
def submit(tiny_model, tmp_path, monkeypatch, capfd, own_decoders):
    """submit(*flags): what a submission with these flags besides `BEAM_FLAGS` brings."""
    gcs = Emulator(tmp_path / "buckets")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    server.jobs, server.asked = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    gcs.start()
    _speak_rest_to(server.server_port, monkeypatch)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gcs_store.bucket_client.cache_clear()
    make_photos(tmp_path / "photos", 20)
    gcs.put_tree("in", tmp_path / "photos")
    gcs.put_tree("model", tiny_model)

    def submit(*flags, first_state="JOB_STATE_PENDING", main=main, what=CLASSIFY):
        server.first_state = first_state
        code = main(
            [*what, f"--model=gs://{BUCKET}/model", f"--output=gs://{BUCKET}/out",
             "--unit-images=8", *BEAM_FLAGS, *flags]
        )  # fmt: skip
        said = capfd.readouterr()
        return Submitted(code, server.jobs, gcs, said.out + said.err)

    yield submit
    server.shutdown()
    server.server_close()
    gcs.stop()
    gcs_store.bucket_client.cache_clear()


def test_the_job_that_arrives(submit):
    """As Dataflow sees it, with the defaults of `runners` and what the user says."""
    job = submit(IMAGE, "--max_num_workers=7", "--machine_type=n2-highcpu-8")
    assert job.code == 1, "the stand-in does nothing, and the totals must say so"
    assert "totals do not balance" in job.said
    [(path, body)] = job.jobs
    assert "/projects/project/locations/region/jobs" in path
    assert body["name"] == "census"
    assert job.pool["machineType"] == "n2-highcpu-8"
    assert job.pool["autoscalingSettings"] == {
        "algorithm": dataflow.AutoscalingAlgorithm.AUTOSCALING_ALGORITHM_BASIC,
        "maxNumWorkers": 7,
    }
    # One process a machine, with one unit at a time: one model, whose threads have all cores.
    assert "no_use_multiple_sdk_containers" in job.experiments
    assert "use_multiple_sdk_containers" not in job.experiments
    assert job.pool["numThreadsPerWorker"] == 1
    [image] = job.pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == "registry/imagecensus:1"
    assert _packages(job) == []
    _check_steps(job.pipeline.components)


def _check_steps(components):
    transforms = components.transforms.values()
    for stage in ("Units", "BeginUnits", "DecodeImages", "ClassifyImages", "WriteParts"):
        assert any(t.unique_name.split("/")[0] == stage for t in transforms), stage
    shuffles = [t for t in transforms if t.spec.urn == "beam:transform:group_by_key:v1"]
    assert shuffles
    assert all(t.unique_name.startswith("Units/") for t in shuffles)
    # From there on all steps have one environment, so that they fuse: pixels cross no shuffle.
    [environment] = {t.environment_id for t in transforms if t.environment_id}
    hints = components.environments[environment].resource_hints
    assert not hints, "hints exclude FlexRS and worker_accelerator"


def test_the_package_that_is_staged(submit):
    """Without an image the workers install the package; it is all of it, and nothing else."""
    job = submit(first_state="JOB_STATE_DONE")  # else Beam waits five seconds to ask again
    assert _packages(job) == ["workflow.tar.gz"]
    staged = next(name for name in job.gcs.names("tmp") if name.endswith("workflow.tar.gz"))
    with tarfile.open(fileobj=io.BytesIO(job.gcs.get(staged))) as tar:
        files = {name.partition("/")[2] for name in tar.getnames()} - {""}
    assert not [name for name in files if "test" in name or "docs" in name or "shared" in name]
    for package in ("jobs", "transforms", "model_export"):
        here = {f"{package}/{path.name}" for path in (fetch_engines.ROOT / package).glob("*.*")}
        assert here <= files
    assert "setup.py" in files


def test_a_flex_template_is_written_and_not_run(submit):
    """Its launcher gives `--name=value` only, and starts what was written when we have exited."""
    from imagecensus.jobs import flex_template

    template = f"gs://{BUCKET}/tmp/job_object"
    job = submit(
        f"--template_location={template}", "--embeddings=true", IMAGE,
        main=flex_template.main, what=(f"--inputs=gs://{BUCKET}/in,gs://{BUCKET}/in/00001.jpg",),
    )  # fmt: skip
    assert job.code == 0, job.said
    assert template in job.said
    assert job.jobs == []
    written = json.loads(job.gcs.get("tmp/job_object"))
    assert "workerPools" in json.dumps(written)
    assert not job.gcs.names("out/predictions")


def test_what_workers_cannot_reach_is_refused(tmp_path, capfd):
    flags = ["--runner=DataflowRunner", f"--output={tmp_path}"]
    assert main(["classify", str(tmp_path), *flags]) == 2
    said = capfd.readouterr().err
    assert f"--output={tmp_path}: Dataflow's workers reach no file" in said
    assert "--model=: Dataflow's workers" in said


def _packages(job: Submitted) -> list[str]:
    """What is staged for the workers to install or unpickle. The list of what is installed here,
    which Beam adds for its support, is not."""
    listed = [package["name"] for package in job.pool.get("packages", ())]
    assert not [name for name in listed if "main_session" in name]
    return [name for name in listed if name != "submission_environment_dependencies.txt"]
