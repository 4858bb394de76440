"""What the doctor finds, and that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import http.server
import json
import shutil
import types

import pytest
from samples import make_photos
from web_server import serving

from imagecensus.jobs import doctor
from imagecensus.jobs.classification import dataflow_checks, runner_checks
from imagecensus.jobs.classification.finding import Finding
from imagecensus.jobs.cli import main
from imagecensus.model_export import safety


def findings(beam_args=(), **options) -> list[Finding]:
    fields = {"inputs": (), "output": "/x", **options}
    options = dataclasses.replace(doctor.DoctorOptions(), **fields)
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = PipelineOptions(list(beam_args)).get_all_options()
    return list(runner_checks.check_runner(options, flags))


def failures(found) -> str:
    return " ".join(f"{f.detail} {f.remedy}" for f in found if f.level == "fail")


@pytest.fixture
def flink():
    """Answers like Flink's REST endpoint: 1.19, one TaskManager with one slot, elsewhere."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            said = {"flink-version": "1.19.3", "taskmanagers": 1, "slots-total": 1}
            if self.path == "/taskmanagers":
                said = {"taskmanagers": [{"path": "pekko.tcp://flink@192.0.2.7:6122/user/rpc/a"}]}
            if self.path == "/jobmanager/config":
                said = [{"key": "rest.port", "value": "8081"}]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

    with serving(Handler) as server:
        yield f"127.0.0.1:{server.server_port}"


def test_all_well(tiny_model, tmp_path, capsys):
    make_photos(tmp_path / "in", 2)
    output = tmp_path / "new" / "out"
    code = main(["doctor", str(tmp_path / "in"), f"--model={tiny_model}", f"--output={output}"])
    assert code == 0
    said = capsys.readouterr().out
    assert "4 labels" in said
    assert "fail" not in said
    assert not output.parent.exists()


def copy_with_other_answers(model, folder):
    """A copy of a model that recorded other golden scores than it gives."""
    from imagecensus.model_export.contract import read_contract, read_golden, write_contract

    shutil.copytree(model, folder)
    golden = read_golden(model)
    others = dataclasses.replace(golden, scores=golden.scores[:, ::-1])
    write_contract(str(folder), read_contract(model), others)


def test_a_model_folder_alone_is_looked_at(tiny_model, tmp_path, capsys):
    assert main(["doctor", str(tiny_model)]) == 0
    said = capsys.readouterr().out
    assert f"{tiny_model}: 4 labels; golden images answered alike" in said
    assert "input" not in said and "warn" not in said
    copy_with_other_answers(tiny_model, tmp_path / "other")
    assert main(["doctor", str(tmp_path / "other")]) == 1
    assert "golden images' scores differ" in capsys.readouterr().out
    # Beside a model folder, a folder of photos stays what it is.
    make_photos(tmp_path / "in", 1)
    assert main(["doctor", str(tmp_path / "in"), str(tiny_model)]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'in'}: listed" in said and f"{tiny_model}: 4 labels" in said


def test_all_problems_at_once(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code = main(
        ["doctor", str(tmp_path / "none"), f"--model={tmp_path}", f"--output={tmp_path}/file/x"]
    )
    assert code == 1
    said = capsys.readouterr().out
    assert said.count("fail ") == 3
    assert said.count("->") >= 3


def test_a_model_that_reads_files_is_not_run(tiny_model, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    graph = safety._saved_model().FromString((model / "saved_model.pb").read_bytes())
    graph.meta_graphs[0].graph_def.node.add(name="thief", op="ReadFile")
    (model / "saved_model.pb").write_bytes(graph.SerializeToString())
    make_photos(tmp_path / "in", 1)
    command = ["doctor", str(tmp_path / "in"), f"--model={model}", f"--output={tmp_path / 'out'}"]
    assert main(command) != 0
    assert "ReadFile" in capsys.readouterr().out


def test_flink_of_another_version(flink):
    text = failures(
        findings(
            [f"--flink_master={flink}", "--flink_version=2.2", "--environment_type=EXTERNAL"],
            runner="FlinkRunner",
        )
    )
    assert "--flink_version=1.19" in text


def test_more_parallel_than_slots(flink):
    flags = [f"--flink_master={flink}", "--flink_version=1.19", "--parallelism=4"]
    assert "slot" in failures(findings(flags, runner="FlinkRunner"))


def test_loopback_needs_a_local_master(flink):
    flags = [f"--flink_master={flink}", "--flink_version=1.19", "--environment_type=LOOPBACK"]
    assert "EXTERNAL" in failures(findings(flags, runner="FlinkRunner"))


def test_nobody_answers():
    assert "no Flink answers" in failures(
        findings(["--flink_master=127.0.0.1:9"], runner="FlinkRunner")
    )


def test_workers_behind_a_forwarded_port_are_elsewhere(flink):
    flags = [f"--flink_master={flink}", "--flink_version=1.19", "--environment_type=EXTERNAL"]
    found = findings(flags, runner="FlinkRunner")
    assert "a TaskManager is at 192.0.2.7, and --output=/x is a path on this machine" in failures(
        found
    )
    assert any("the first machine that is lost ends the job" in f.detail for f in found)
    found = findings(flags, runner="FlinkRunner", output="gs://b/out", model="gs://b/model")
    assert failures(found) == ""


def test_dataflow_lacks_everything(monkeypatch, tmp_path):
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    text = failures(findings([], runner="DataflowRunner"))
    assert all(word in text for word in ("--project", "--region", "--temp_location"))


def test_dataflow_s_workers_have_no_tensorflow_of_their_own():
    flags = ["--project=p", "--region=r", "--temp_location=gs://b/t"]
    assert failures(findings(flags, runner="DataflowRunner")) == ""
    told = failures(findings(flags, runner="DataflowRunner", engine="tensorflow"))
    assert "without TensorFlow" in told
    flags.append("--sdk_container_image=workers:1")
    assert failures(findings(flags, runner="DataflowRunner", engine="tensorflow")) == ""


DATAFLOW = ["--project=p", "--region=us-central1", "--temp_location=gs://b/t"]
L4 = "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1"


@pytest.fixture
def google(monkeypatch):
    """Buckets and quotas of a project; change `google.told` to have other ones."""
    told = types.SimpleNamespace(location="US-CENTRAL1", retention_period=None)
    quotas = [
        {"metric": metric, "limit": limit, "usage": 0}
        for metric, limit in (("N2_CPUS", 24), ("G2_CPUS", 8), ("NVIDIA_L4_GPUS", 0))
    ]
    answer = types.SimpleNamespace(raise_for_status=lambda: None, json=lambda: {"quotas": quotas})
    client = types.SimpleNamespace(
        get_bucket=lambda name, **_: told,
        _http=types.SimpleNamespace(get=lambda url, **_: answer),
    )
    monkeypatch.setattr(dataflow_checks, "bucket_client", lambda: client)
    return told


@pytest.mark.parametrize(
    "flags, level, said",
    [
        ([], "warn", "as many machines as the quota gives"),
        ([], "warn", "no --service_account_email"),
        (["--sdk_container_image=census:1"], "warn", "names no registry"),
        (["--sdk_container_image=x.example/p/census"], "warn", "has no fixed tag"),
        (["--no_use_public_ips"], "warn", "Private Google Access"),
        (["--resource_hints=min_ram=4GB", "--flexrs_goal=COST_OPTIMIZED"], "fail", "flexrs_goal"),
        (["--resource_hints=min_ram=4GB", L4], "fail", "excludes worker_accelerator"),
        ([L4], "fail", "without install-nvidia-driver"),
        ([L4 + ";install-nvidia-driver"], "warn", "may choose int8"),
        (
            [L4 + ";install-nvidia-driver"],
            "fail",
            "NVIDIA_L4_GPUS: 0 free in us-central1, 1 wanted",
        ),
        (["--max_num_workers=6"], "ok", "N2_CPUS: 24 free in us-central1, 24 wanted"),
        (["--max_num_workers=7"], "warn", "N2_CPUS: 24 free in us-central1, 28 wanted"),
        (["--region=europe-west1"], "warn", "gs://b (--temp_location) is in us-central1"),
    ],
)
def test_what_can_be_seen_of_dataflow(google, flags, level, said):
    found = findings([*DATAFLOW, *flags], runner="DataflowRunner")
    assert any(f.level == level and said in f.detail for f in found), found
    assert all(f.remedy for f in found if f.level != "ok")


def test_an_output_that_keeps_what_is_written(google):
    google.retention_period = 86_400 * 30
    told = failures(findings(DATAFLOW, runner="DataflowRunner", output="gs://b/out"))
    assert "keeps each object for 30 days" in told
    assert failures(findings(DATAFLOW, runner="DataflowRunner")) == ""


@pytest.mark.parametrize(
    "place, near",
    [("us", True), ("nam4", True), ("us-central1", True), ("eu", False), ("us-east1", False)],
)
def test_where_reads_are_free(place, near):
    assert dataflow_checks._is_near(place, "us-central1") == near


def test_local_output_of_remote_workers(tmp_path):
    options = dataclasses.replace(
        doctor.DoctorOptions(), inputs=(), output=str(tmp_path), runner="FlinkRunner"
    )
    found = list(doctor.check_output(options, {"flink_master": "flink.example:8081"}))
    assert "workers are elsewhere" in failures(found)


def _levels(found) -> dict[str, str]:
    return {finding.check: finding.level for finding in found}


def _examined(check, **options) -> list[Finding]:
    fields = {"inputs": (), "output": "/x", **options}
    return list(check(dataclasses.replace(doctor.DoctorOptions(), **fields)))


def test_every_finding_that_is_not_well_has_a_remedy(tmp_path):
    """A memory that no machine has, a model folder that is none."""
    found = _examined(doctor.check_machine, threads=10**6)
    found += doctor.check_model(
        dataclasses.replace(doctor.DoctorOptions(), inputs=(), model=str(tmp_path)), {}
    )
    assert _levels(found) == {"versions": "ok", "memory": "warn", "model": "fail"}
    assert all(finding.remedy for finding in found if finding.level != "ok")


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "MIN_FREE_DISK", 1 << 60)
    options = dataclasses.replace(doctor.DoctorOptions(), inputs=(), output=str(tmp_path))
    found = {finding.check: finding for finding in doctor.check_output(options, {})}
    assert found["output"].level == "ok"
    assert found["disk"].level == "warn" and "free some space" in found["disk"].remedy


def test_an_output_that_cannot_be_written(tmp_path, ordinary_user):
    options = dataclasses.replace(doctor.DoctorOptions(), inputs=(), output="/usr/census")
    [finding] = ordinary_user(lambda: list(doctor.check_output(options, {})))
    assert finding.level == "fail"
    assert finding.detail == "/usr/census/_imagecensus: cannot be made: Permission denied"
    assert finding.remedy == "choose another --output"


def test_no_credentials(tmp_path, monkeypatch):
    from imagecensus.transforms.storage import gcs

    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    gcs.bucket_client.cache_clear()
    [finding] = _examined(doctor.check_credentials, inputs=("gs://photos/in",))
    assert finding.level == "fail"
    assert "gcloud auth" in finding.remedy
    assert _examined(doctor.check_credentials, inputs=("photos",)) == []
    [finding] = _examined(doctor.check_credentials, runner="DataflowRunner")
    assert finding.level == "fail"


def test_a_model_that_is_not_what_was_exported(tiny_model, tmp_path):
    def examined(model):
        options = dataclasses.replace(doctor.DoctorOptions(), inputs=(), model=str(model))
        return " ".join(f.detail for f in doctor.check_model(options, {}) if f.level == "fail")

    assert examined(tiny_model) == ""
    copy_with_other_answers(tiny_model, tmp_path / "answers")
    assert "golden images' scores differ" in examined(tmp_path / "answers")
    shutil.copytree(tiny_model, tmp_path / "labels")
    (tmp_path / "labels" / "assets.extra" / "labels.txt").write_text("red\ngreen\n")
    assert "2 labels, the model 4 classes" in examined(tmp_path / "labels")


def test_a_local_model_of_remote_workers(tiny_model):
    options = dataclasses.replace(doctor.DoctorOptions(), inputs=(), model=tiny_model)
    for runner, level in (("FlinkRunner", "warn"), ("DataflowRunner", "fail")):
        elsewhere = dataclasses.replace(options, runner=runner)
        found = list(doctor.check_model(elsewhere, {"flink_master": "flink.example:8081"}))
        assert found[-1].level == level
        assert "gs://" in found[-1].remedy


def test_workers_tell_their_versions(monkeypatch):
    """The worker is this process: what it says is what `versions_here` says when it is asked."""
    options = dataclasses.replace(
        doctor.DoctorOptions(),
        runner="apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner",
    )
    [finding] = runner_checks.check_workers(options)
    assert finding.level == "ok" and "as here" in finding.detail
    answers = iter(["imagecensus 1, Beam 1", "imagecensus 2, Beam 1"])
    monkeypatch.setattr(runner_checks, "versions_here", lambda: next(answers))
    [finding] = runner_checks.check_workers(options)
    assert finding.level == "fail"
    assert "workers have imagecensus 2, Beam 1; here imagecensus 1" in finding.detail


def test_a_job_server_of_another_beam(flink, tmp_path):
    jar = tmp_path / "beam-runners-flink-1.19-job-server-2.62.0.jar"
    flags = [f"--flink_master={flink}", "--flink_version=1.19", "--environment_type=EXTERNAL"]
    flags.append(f"--flink_job_server_jar={jar}")
    assert "run make flink-env" in failures(findings(flags, runner="FlinkRunner"))
    jar.touch()
    found = findings(flags, runner="FlinkRunner")
    assert any(f.level == "warn" and "is not of Beam" in f.detail for f in found)


def test_prism_that_is_not_there(tmp_path):
    flags = [f"--prism_location={tmp_path}/prism"]
    assert "run make prism" in failures(findings(flags, runner="PrismRunner"))
