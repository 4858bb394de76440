"""From decoded batches to rows: alignment and bisection."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import LABELS

from imagecensus.transforms.engines.classify_batch import (
    ClassificationConfig,
    classify_batch,
    infer_bisecting,
)
from imagecensus.transforms.records import ImageBatch, Unit, prediction_schema

UNIT = Unit(name="u", plan="plan", row_group=0, rows=8)


NAMES = pa.array(LABELS)


class BrightnessEngine:
    """A real classifier of a simple kind: the class is the mean brightness in quarters.

    Fails on a batch in which any image is black, as an accelerator out of memory would.
    """

    calls = 0

    def infer(self, pixels):
        self.calls += 1
        means = pixels.reshape(len(pixels), -1).mean(1)
        if (means == 0).any():
            raise MemoryError("black")
        best = (means // 64).astype(np.int32)
        class_ids = np.stack([best, (best + 1) % 4], 1)
        scores = np.stack([means / 255, means / 511], 1).astype(np.float32)
        return class_ids, scores, means[:, None].astype(np.float32)


def batch_of(means) -> ImageBatch:
    """A batch; a mean of None is an image that could not be decoded."""
    good = [m for m in means if m is not None]
    pixels = (
        np.stack([np.full((4, 4, 3), m, np.uint8) for m in good])
        if good
        else np.empty((0, 4, 4, 3), np.uint8)
    )
    rows = len(means)
    refs = pa.record_batch(
        {
            "uri": [f"/{i}" for i in range(rows)],
            "size": pa.array([1] * rows, pa.int64()),
            "etag_or_mtime": ["e"] * rows,
            "container": pa.nulls(rows, pa.string()),
            "member": pa.nulls(rows, pa.string()),
            "camera": ["north"] * rows,
        }
    )
    bad = [m is None for m in means]
    return ImageBatch(
        unit=UNIT,
        refs=refs,
        status=["truncated" if b else "ok" for b in bad],
        error=["cut" if b else None for b in bad],
        width=[None if b else 4 for b in bad],
        height=[None if b else 4 for b in bad],
        format=[None if b else "PNG" for b in bad],
        bytes=[9] * rows,
        pixels=pixels,
        last=True,
    )


def classify(means, **options):
    config = ClassificationConfig(model="", engine="", top_k=2, **options)
    return classify_batch(batch_of(means), BrightnessEngine(), NAMES, config, 1).rows


def test_rows_have_the_schema_and_stay_aligned():
    rows = classify([200, None, 70, 10, None], embeddings=True)
    assert rows.schema == prediction_schema(pa.schema([("camera", pa.string())]), 1)
    assert rows.to_pylist() == [
        row(0, 200, "mixed", "red"),
        row(1, None),
        row(2, 70, "green", "blue"),
        row(3, 10, "red", "green"),
        row(4, None),
    ]


def row(index, mean, first=None, second=None):
    good = mean is not None
    f32 = lambda value: float(np.float32(value))  # noqa: E731
    best = (
        {"label": first, "class_id": LABELS.index(first), "score": f32(mean / 255)} if good else {}
    )
    return {
        "uri": f"/{index}",
        "status": "ok" if good else "truncated",
        "error": None if good else "cut",
        "label": first,
        "class_id": best.get("class_id"),
        "score": best.get("score"),
        "top_k": [
            best,
            {"label": second, "class_id": LABELS.index(second), "score": f32(mean / 511)},
        ]
        if good
        else None,
        "width": 4 if good else None,
        "height": 4 if good else None,
        "format": "PNG" if good else None,
        "bytes": 9,
        "etag_or_mtime": "e",
        "embedding": [float(mean)] if good else [None],
        "camera": "north",
    }


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 255)), max_size=40))
def test_every_image_is_one_row_whatever_fails(means):
    """A black image fails its whole batch; bisection leaves only its own row failed."""
    rows = classify(means).to_pylist()
    assert [r["uri"] for r in rows] == [f"/{i}" for i in range(len(means))]
    for mean, found in zip(means, rows, strict=True):
        if mean is None:
            assert found["status"] == "truncated" and found["label"] is None
        elif mean == 0:
            assert found["status"] == "inference_error" and found["error"] == "MemoryError: black"
            assert found["top_k"] is None and found["width"] == 4
        else:
            assert found["status"] == "ok" and found["label"] == LABELS[mean // 64]


def test_bisection_costs_a_logarithm():
    engine = BrightnessEngine()
    pixels = batch_of([0] + [100] * 63).pixels
    *_, errors = infer_bisecting(engine, pixels)
    assert [e is not None for e in errors] == [True] + [False] * 63
    assert engine.calls == 13  # 1 + 2 per halving of 64


def test_scores_that_are_no_numbers_are_errors():
    class Broken(BrightnessEngine):
        def infer(self, pixels):
            class_ids, scores, embeddings = super().infer(pixels)
            scores[pixels[:, 0, 0, 0] == 7] = np.nan
            return class_ids, scores, embeddings

    *_, errors = infer_bisecting(Broken(), batch_of([7, 50]).pixels)
    assert errors[0].startswith("FloatingPointError") and errors[1] is None
