"""358 million images on a TaskManager of 1 GB: their units, in the graph or with names, hung it."""

from __future__ import annotations

import hashlib
import os

import apache_beam as beam
import flink_cluster
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import make_photos

from imagecensus.jobs.classification.pipeline import PipelineConfig, build_pipeline
from imagecensus.jobs.classification.runners import beam_runner
from imagecensus.jobs.options.classify import FLINK, ClassifyOptions
from imagecensus.model_export.contract import read_contract
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.dataset.parts import part_location
from imagecensus.transforms.dataset.plan_units import plan_units
from imagecensus.transforms.dataset.work_plan import PlanWriter, read_plan
from imagecensus.transforms.decoders.decode_batch import DecodingConfig
from imagecensus.transforms.engines.classify_batch import ClassificationConfig
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.records import REF_SCHEMA, Unit

pytestmark = pytest.mark.flink
IMAGES = 358_000_000
UNITS_READ = 2  # of most plan files: the others have no rows in it
FULL = 24  # plan files in which all units are full


@pytest.fixture
def small_cluster(tmp_path, monkeypatch):
    """One TaskManager, of 1 GB with Flink's own share of it for classes."""
    config = flink_cluster._CONFIG.replace("1500m", "1024m").replace("600m", "256m")
    assert "taskmanager.memory.process.size: 1024m" in config
    monkeypatch.setattr(flink_cluster, "_CONFIG", config)
    monkeypatch.setattr(flink_cluster, "TASK_MANAGERS", 1)
    with flink_cluster.cluster_in(tmp_path / "flink", {}) as cluster:
        yield cluster


class Units:
    """All units of plan files of 512 units, made as they are asked for."""

    def __init__(self, plans: list[str]):
        self._plans = plans

    def __len__(self):
        return 512 * len(self._plans)

    def __iter__(self):
        for plan in self._plans:
            for group in range(512):
                yield Unit(name="0" * 24, plan=plan, row_group=group, rows=512)


def full_units(folder: str) -> tuple[Unit, ...]:
    """A plan file of 512 units of 512 images, with names that cannot be compressed much."""
    writer, random = PlanWriter(folder, plan=read_plan(folder)), np.random.default_rng(0)
    for number in range(512):
        uris = [f"gs://bucket/images/{random.bytes(30).hex()}.jpg" for _ in range(512)]
        columns = {"uri": uris, "size": range(512), "etag_or_mtime": uris}
        empty = {name: [None] * 512 for name in REF_SCHEMA.names if name not in columns}
        rows = pa.RecordBatch.from_pydict({**columns, **empty}, REF_SCHEMA)
        writer.add(Unit(name=f"{number:024}", plan="", row_group=0, rows=512), rows)
    writer.flush()
    return writer.files[0].units


def test_units_of_358_million_images_pass(small_cluster, tiny_model, tmp_path):
    """All units are done but for one, the last, which gets its part."""
    photos, layout = tmp_path / "photos", Layout(output=str(tmp_path / "out"))
    make_photos(photos, UNITS_READ)
    layout.make()
    [*done, last] = plan_units(
        list_images((str(photos),)), layout.state, "f", passthrough=pa.schema([]), unit_rows=1
    ).units  # fmt: skip
    full = full_units(layout.state)
    for unit in (*done, *full):
        open(part_location(layout.parts, unit), "wb").close()
    plans = [full[0].plan, last.plan]
    for number in range(2, IMAGES // 512 // 512):
        digest = hashlib.sha256(str(number).encode()).hexdigest()[:16]
        plans.append(f"{layout.state}/plan-{number:05d}-{digest}.parquet")
        os.link(plans[number > FULL], plans[-1])
    config = PipelineConfig(
        decoding=DecodingConfig(spec=read_contract(tiny_model).preprocess, threads=1),
        classification=ClassificationConfig(
            model=tiny_model, engine="openvino", top_k=2, threads=1
        ),
        layout=layout, made_by={"fingerprint": "f"},
    )  # fmt: skip
    options = ClassifyOptions(
        inputs=(str(photos),),
        output=layout.output,
        runner=FLINK,
        beam_args=(*small_cluster.job_flags[1:-1], "--parallelism=1"),
    )
    runner, flags = beam_runner(options)
    pipeline = beam.Pipeline(runner, flags)
    build_pipeline(pipeline, Units(plans), config)
    assert pipeline.run().wait_until_finish(duration=100_000) == "DONE"
    assert pq.read_table(part_location(layout.parts, last)).num_rows == 1
