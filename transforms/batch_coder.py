"""How Beam encodes batches of decoded images, if it ever does."""

from __future__ import annotations

import pickle

import apache_beam as beam
from apache_beam.coders import coder_impl

from imagecensus.transforms.records import ImageBatch


class ImageBatchCoder(beam.coders.PickleCoder):
    """Pickles an `ImageBatch`, but gives its size in bytes without that.

    Batches go from stage to stage as they are. Beam asks for the size of the first and of some
    later ones, and would pickle them to learn it: 19 MB each.
    """

    def _create_impl(self) -> coder_impl.CallbackCoderImpl:
        return coder_impl.CallbackCoderImpl(
            lambda batch: pickle.dumps(batch, pickle.HIGHEST_PROTOCOL),
            pickle.loads,
            lambda batch: batch.pixels.nbytes + batch.refs.nbytes,
        )

    def to_type_hint(self) -> type[ImageBatch]:
        return ImageBatch
