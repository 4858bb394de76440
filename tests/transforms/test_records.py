"""Records between stages."""

import pyarrow as pa

from imagecensus.transforms.engines.classify_batch import ClassificationConfig
from imagecensus.transforms.records import PredictionBatch, Unit


def test_records_survive_pickling():
    import pickle

    for record in (
        Unit(name="u", plan="gs://b/plan", row_group=3, rows=10, revision=1, base=0),
        PredictionBatch(
            unit=Unit(name="u", plan="p", row_group=0, rows=1),
            rows=pa.record_batch({"a": [1]}),
            last=True,
        ),
        ClassificationConfig(model="m", engine="openvino"),
    ):
        assert pickle.loads(pickle.dumps(record)) == record
