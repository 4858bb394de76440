"""The graph of 358 million images on a TaskManager of 1 GB: one of units did hang it.

The graph alone: its plan files have two small units each. Full ones do not fit (docs/flink.md).
"""

from __future__ import annotations

import hashlib
import os

import apache_beam as beam
import flink_cluster
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
from imagecensus.transforms.decoders.decode_batch import DecodingConfig
from imagecensus.transforms.engines.classify_batch import ClassificationConfig
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.records import Unit

pytestmark = pytest.mark.flink
IMAGES = 358_000_000
UNITS_READ = 2  # of each plan file: the others have no rows in it


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


def test_the_graph_passes_and_small_units_reach_their_end(small_cluster, tiny_model, tmp_path):
    """Nearly all units are done; the last one is not, and gets its part."""
    photos, layout = tmp_path / "photos", Layout(output=str(tmp_path / "out"))
    make_photos(photos, UNITS_READ)
    layout.make()
    [*done, last] = plan_units(
        list_images((str(photos),)), layout.state, "f", passthrough=pa.schema([]), unit_rows=1
    ).units  # fmt: skip
    for unit in done:
        open(part_location(layout.parts, unit), "wb").close()
    plans = [last.plan]
    for number in range(1, IMAGES // 512 // 512):
        digest = hashlib.sha256(str(number).encode()).hexdigest()[:16]
        plans.append(f"{layout.state}/plan-{number:05d}-{digest}.parquet")
        os.link(last.plan, plans[-1])
    config = PipelineConfig(
        decoding=DecodingConfig(spec=read_contract(tiny_model).preprocess, threads=1),
        classification=ClassificationConfig(
            model=tiny_model, engine="openvino", top_k=2, threads=1
        ),
        layout=layout, made_by={"fingerprint": "f"}, elsewhere=True,
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
    assert pipeline.run().wait_until_finish(duration=400_000) == "DONE"
    assert pq.read_table(part_location(layout.parts, last)).num_rows == 1
