"""Reading ahead: the order of batches, and that it runs on from unit to unit."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import make_photos

from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.transforms.decode_images import ReadAhead
from imagecensus.transforms.decoders.decode_batch import DecodingConfig, Pools
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.records import Unit


@pytest.fixture(scope="module", autouse=True)
def decoders():
    with lease(DecodingConfig(spec=PreprocessSpec()).limits):
        yield


@pytest.fixture(scope="module")
def refs(tmp_path_factory):
    """30 references."""
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, 30)
    return pa.Table.from_batches(list_images((str(folder),))).combine_chunks().to_batches()[0]


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=3),
    batch_images=st.integers(1, 6),
    window_batches=st.integers(1, 8),
)
def test_each_units_batches_come_in_order_and_end_with_one_last(
    refs, sizes, batch_images, window_batches
):
    config = DecodingConfig(
        spec=PreprocessSpec(height=32, width=32),
        batch_images=batch_images,
        window_batches=window_batches,
    )
    pools = Pools(config)  # of the module's decoders
    ahead, batches, start = ReadAhead(config, pools), [], 0
    for number, size in enumerate(sizes):
        unit = Unit(name=str(number), plan="plan", row_group=number, rows=size)
        batches += ahead.add(unit, refs.slice(start, size))
        start += size
    early = len(batches)
    batches += ahead.rest()
    pools.close()

    assert early == max(0, len(batches) - window_batches), "no unit ends it but the last"
    uris = [uri for batch in batches for uri in batch.refs.column("uri").to_pylist()]
    assert uris == refs.column("uri").to_pylist()[:start]
    for number, size in enumerate(sizes):
        own = [batch for batch in batches if batch.unit.name == str(number)]
        assert sum(len(batch) for batch in own) == size
        assert [batch.last for batch in own] == [False] * (len(own) - 1) + [True]
