"""What the doctor finds, and that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading

import pytest
from samples import make_photos

from jobs import doctor
from jobs.cli import main


def findings(beam_args=(), **options) -> list[doctor.Finding]:
    fields = {"inputs": (), "output": "/x", **options}
    options = dataclasses.replace(doctor.DoctorOptions(), **fields)
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = PipelineOptions(list(beam_args)).get_all_options()
    return list(doctor.check_runner(options, flags))


def failures(found) -> str:
    return " ".join(f"{f.detail} {f.remedy}" for f in found if f.level == "fail")


@pytest.fixture
def flink():
    """Answers like Flink's REST endpoint: 1.19, one TaskManager with one slot."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            told = {"flink-version": "1.19.3", "taskmanagers": 1, "slots-total": 1}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def test_all_well(tiny_model, tmp_path, capsys):
    make_photos(tmp_path / "in", 2)
    output = tmp_path / "new" / "out"
    code = main(["doctor", str(tmp_path / "in"), f"--model={tiny_model}", f"--output={output}"])
    assert code == 0
    said = capsys.readouterr().out
    assert "4 labels" in said
    assert "fail" not in said
    assert not output.parent.exists()


def test_all_problems_at_once(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code = main(
        ["doctor", str(tmp_path / "none"), f"--model={tmp_path}", f"--output={tmp_path}/file/x"]
    )
    assert code == 1
    said = capsys.readouterr().out
    assert said.count("fail ") == 3
    assert said.count("->") >= 3


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
    assert "slots" in failures(findings(flags, runner="FlinkRunner"))


def test_loopback_needs_a_local_master(flink):
    flags = [f"--flink_master={flink}", "--flink_version=1.19", "--environment_type=LOOPBACK"]
    assert "EXTERNAL" in failures(findings(flags, runner="FlinkRunner"))


def test_nobody_answers():
    assert "no Flink answers" in failures(
        findings(["--flink_master=127.0.0.1:9"], runner="FlinkRunner")
    )


def test_dataflow_lacks_everything(monkeypatch, tmp_path):
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    text = failures(findings([], runner="DataflowRunner"))
    assert all(word in text for word in ("--project", "--region", "--temp_location"))


def test_local_output_of_remote_workers(tmp_path):
    options = dataclasses.replace(
        doctor.DoctorOptions(), inputs=(), output=str(tmp_path), runner="FlinkRunner"
    )
    found = list(doctor.check_output(options, {"flink_master": "flink.example:8081"}))
    assert "workers are elsewhere" in failures(found)
