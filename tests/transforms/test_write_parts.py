"""What becomes a part, and what must not."""

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import fn_runner

from imagecensus.transforms.records import PredictionBatch, Unit
from imagecensus.transforms.write_parts import WriteParts


def test_a_unit_torn_between_bundles_fails_loudly(tmp_path):
    """Half a unit must never become a part."""
    unit = Unit(name="u", plan="plan", row_group=0, rows=4)
    half = PredictionBatch(unit=unit, rows=pa.record_batch({"status": ["ok", "ok"]}), last=False)
    pipeline = beam.Pipeline(runner=fn_runner.FnApiRunner())
    _ = pipeline | beam.Create([half]) | WriteParts(folder=str(tmp_path), provenance={})
    with pytest.raises(RuntimeError, match="split between workers"):
        pipeline.run().wait_until_finish()
    short = PredictionBatch(unit=unit, rows=pa.record_batch({"status": ["ok", "ok"]}), last=True)
    pipeline = beam.Pipeline(runner=fn_runner.FnApiRunner())
    _ = pipeline | beam.Create([short]) | WriteParts(folder=str(tmp_path), provenance={})
    with pytest.raises(RuntimeError, match="2 rows for 4 references"):
        pipeline.run().wait_until_finish()
    assert not list(tmp_path.iterdir())
