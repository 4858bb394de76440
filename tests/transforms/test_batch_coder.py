"""Batches through the coder that Beam is given for them."""

import pyarrow as pa
from apache_beam.coders.typecoders import registry

from imagecensus.transforms import decode_images  # noqa: F401  registers the coder
from imagecensus.transforms.records import ImageBatch, Unit


def test_batches_survive_their_coder():
    """A runner that puts a stage's batches elsewhere gets them back as they were."""
    unit = Unit(name="u", plan="plan", row_group=0, rows=2)
    refs = pa.RecordBatch.from_pydict({"uri": ["file:///a.jpg", "file:///b.jpg"]})
    batch = ImageBatch.of(unit, refs, (4, 5, 3))
    batch.pixels[...] = 7
    coder = registry.get_coder(ImageBatch)
    again = coder.decode(coder.encode(batch))
    assert (again.pixels == 7).all()
    assert (again.unit, again.refs.to_pydict()) == (unit, refs.to_pydict())
    assert coder.estimate_size(batch) == 2 * 4 * 5 * 3 + refs.nbytes
