"""`--list-on-workers`: where it is refused, and what becomes of what dead runs leave behind."""

from __future__ import annotations

import http.server
import json
import pathlib
import signal
import time

import apache_beam as beam
import pytest
from web_server import serving

from imagecensus.jobs.classification.interrupts import attach, run_listing
from imagecensus.jobs.classification.remote_job import RemoteJob, read_job, write_job
from imagecensus.jobs.options.classify import ClassifyOptions
from imagecensus.transforms.dataset.epoch import fence_of, raise_epoch
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.inputs.object_ranges import Group, Spool
from imagecensus.transforms.list_objects import ListObjects
from imagecensus.transforms.storage.listing_ranges import Range


@pytest.mark.parametrize(
    ("inputs", "more", "why"),
    [
        (("gs://b/p/",), {}, "there are none in this process"),
        ((".",), {"runner": "PrismRunner"}, "no input is one"),
        (("az://b/p/",), {"runner": "FlinkRunner"}, "no input is one"),
        (("s3://b--x-s3/p/",), {"runner": "FlinkRunner"}, "no input is one"),
        (("s3://b/p/",), {"runner": "FlinkRunner", "limit": 5}, "does not go with --limit"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(inputs, more, why):
    options = ClassifyOptions(inputs=inputs, output="gs://b/out", list_on_workers=True, **more)
    assert any(why in problem for problem in options.problems())


def test_a_mixture_of_inputs_is_taken():
    options = {"output": "gs://b/out", "list_on_workers": True, "runner": "FlinkRunner"}
    assert not ClassifyOptions(inputs=(".", "gs://b/p/"), **options).problems()


def test_a_late_worker_lists_nothing(layout):
    """Its run's launcher is gone, and another run has begun: no store is asked, no file written."""
    old = raise_epoch(layout.epoch, "one")
    raise_epoch(layout.epoch, "two")
    spool = Spool(start=f"{layout.listing}one-", exclude=(), include=(), is_opened=bool)
    group = Group(text="gs://nowhere/", ranges=(Range(""),))
    fence = fence_of(layout.epoch, layout.whole.epoch, old)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | ListObjects(groups=[group], spool=spool, fence=fence)
    assert not layout_files(layout, "listing")


def layout_files(layout, start):
    return sorted(path.name for path in pathlib.Path(layout.state).glob(f"{start}*"))


def test_a_run_removes_what_dead_ones_listed(layout):
    for name in ("listing-a-1.parquet", "listing-s0of2-b-2.parquet", "ledger-1.parquet"):
        pathlib.Path(layout.state, name).touch()
    Layout(output=layout.output, shard=(0, 2)).remove_listings()
    assert layout_files(layout, "listing") == ["listing-a-1.parquet"]
    layout.remove_listings()
    assert layout_files(layout, "l") == ["ledger-1.parquet"]


class _Flink(http.server.BaseHTTPRequestHandler):
    """One job, until it is cancelled."""

    def do_GET(self):
        job = {"jid": "1", "name": "n-list", "state": self.server.state}
        self.answer({"jobs": [job | {"start-time": time.time() * 1000}]})

    def do_PATCH(self):
        self.server.state = "CANCELED"
        self.answer({})

    def answer(self, said):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())


def test_a_rerun_ends_the_listing_of_a_launcher_that_is_gone(layout, capfd):
    with serving(_Flink, state="RUNNING") as server:
        job = RemoteJob(
            runner="FlinkRunner", name="n-list", run_id="r", began=time.time(), lists=True,
            place={"url": server.url},
        )  # fmt: skip
        write_job(layout, job)
        assert attach(layout, detach=False) == ""
    assert server.state == "CANCELED" and read_job(layout) is None
    assert "launcher is gone" in capfd.readouterr().out


class _Pipeline:
    """A job that runs until it is cancelled."""

    state, cancelled = "RUNNING", False

    def run(self):
        return self

    def wait_until_finish(self):
        signal.raise_signal(signal.SIGINT)

    def cancel(self):
        self.cancelled = True


def test_ctrl_c_cancels_the_listing(layout, capfd):
    pipeline = _Pipeline()
    job = RemoteJob(runner="FlinkRunner", name="n", place={"url": "u"}, run_id="r", began=0.0)
    with pytest.raises(KeyboardInterrupt):
        run_listing(pipeline, "FlinkRunner", job, layout)
    assert pipeline.cancelled and read_job(layout) is None
    assert "was cancelled" in capfd.readouterr().err
