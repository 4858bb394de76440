import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagecensus.transforms.dataset import checksum


def _file(rows=3):
    buffer = io.BytesIO()
    table = pa.table({"x": list(range(rows))})
    with pq.ParquetWriter(buffer, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({checksum.KEY: checksum.EMPTY})
    return buffer.getvalue()


WHOLE = checksum.add_checksum(_file())


def test_a_file_with_a_checksum_is_parquet_like_any_other():
    assert checksum.check(WHOLE) == WHOLE
    assert pq.read_table(io.BytesIO(WHOLE)).column("x").to_pylist() == [0, 1, 2]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
def test_any_flipped_bit_is_found(at, bit):
    data = bytearray(WHOLE)
    data[at] ^= 1 << bit
    with pytest.raises(checksum.DamagedError):
        checksum.check(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_any_cut_is_found(length):
    with pytest.raises(checksum.DamagedError):
        checksum.check(WHOLE[:length])


def test_a_file_without_a_checksum_is_not_trusted():
    with pytest.raises(checksum.DamagedError):
        checksum.check(_file())
