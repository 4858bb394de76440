"""Classification as a step of somebody else's Beam pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from imagecensus.jobs.predict import Predictor

_LARGEST_BATCH = 64


@beam.typehints.with_input_types(str)
@beam.typehints.with_output_types(dict[str, Any])
@dataclasses.dataclass(kw_only=True)  # not frozen: Beam sets attributes of a transform
class ClassifyUris(beam.PTransform):
    """Uris of images to rows of predictions: `PCollection[str]` to `PCollection[dict]`.

    Each uri gives exactly one row with the columns and statuses of the table of `imagecensus
    classify`; an image that cannot be read or decoded is a row whose `status` says why. The
    caller's pipeline decides what is read again after a failure and where rows are written.

    Attributes:
      model: model folder or bucket prefix; None for MobileNet-V2 trained on ImageNet.
      top_k: best classes kept per image.
      engine: auto, openvino or tensorflow.
      embeddings: adds `embedding`, a list of float32.
    """

    model: str | None = None
    top_k: int = 5
    engine: str = "auto"
    embeddings: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, uris: beam.PCollection[str]) -> beam.PCollection[dict[str, Any]]:
        return (
            uris
            | "Batch" >> beam.BatchElements(max_batch_size=_LARGEST_BATCH)
            | "Classify" >> beam.ParDo(_ClassifyBatch(self))
        )


class _ClassifyBatch(beam.DoFn):
    def __init__(self, options: ClassifyUris) -> None:
        self._options = (options.model, options.engine, options.top_k, options.embeddings)
        self._predictor: Predictor | None = None

    def setup(self) -> None:
        model, engine, top_k, _ = self._options
        self._predictor = Predictor(model, engine, top_k)

    def process(self, uris: list[str]) -> Iterator[dict[str, Any]]:
        assert self._predictor is not None
        yield from classify_uris(self._predictor, uris, embeddings=self._options[3])


def classify_uris(
    predictor: Predictor, uris: Iterable[str], *, embeddings: bool = False
) -> Iterator[dict[str, Any]]:
    """One row per uri, in order."""
    for row in predictor.predict(uris, embeddings):
        if embeddings and row["embedding"] is not None:
            row["embedding"] = row["embedding"].tolist()
        yield row
