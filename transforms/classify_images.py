"""From decoded batches to predictions: Beam's RunInference over one of the engines."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference import base
from apache_beam.ml.inference.base import ModelHandler, RunInference

from imagecensus.transforms import counters
from imagecensus.transforms.engines.classify_batch import (
    ClassificationConfig,
    LoadedClassifier,
    classify_batch,
    load_classifier,
)
from imagecensus.transforms.engines.registry import AUTO
from imagecensus.transforms.local_run import LOCAL_RUN
from imagecensus.transforms.records import ImageBatch, PredictionBatch

# Beam forgets it where its manager of models cannot be imported, and warns for each model.
base.resource = resource


class ClassifierHandler(ModelHandler[ImageBatch, PredictionBatch, LoadedClassifier]):
    """RunInference over pre-made batches: one `ImageBatch` in, one `PredictionBatch` out."""

    def __init__(self, config: ClassificationConfig) -> None:
        super().__init__()
        self._config = config

    def load_model(self) -> LoadedClassifier:
        """See `load_classifier`."""
        return load_classifier(self._config)

    def run_inference(
        self, batch: ImageBatch, model: LoadedClassifier, inference_args: Any = None
    ) -> Sequence[PredictionBatch]:
        rows = classify_batch(
            batch, model.engine, model.labels, self._config, model.embedding_size, known=model.known
        )
        rows.engine = model.name
        for name, times in rows.noted.items():
            counters.IN_BATCHES[name].inc(times)
        if self._config.engine == AUTO:
            counters.IMAGES_BY_ENGINE[model.name].inc(len(batch.pixels))
        if model.note:
            counters.CALLS.add(model.note)
        LOCAL_RUN.add_images(len(rows))
        return [rows]

    def get_num_bytes(self, batch: ImageBatch) -> int:
        return batch.pixels.nbytes  # the default would pickle the pixels

    def should_skip_batching(self) -> bool:
        return True


@dataclasses.dataclass(kw_only=True)
class ClassifyImages(beam.PTransform):
    """`PCollection[ImageBatch]` → `PCollection[PredictionBatch]`, by RunInference."""

    config: ClassificationConfig

    def expand(self, batches: beam.PCollection[ImageBatch]) -> beam.PCollection[PredictionBatch]:
        return batches | RunInference(ClassifierHandler(self.config))
