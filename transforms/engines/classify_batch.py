"""From one batch of decoded images to finished rows: the same for the job and for `predict`.

An engine is anything with
  infer(pixels uint8 [N, H, W, 3]) -> (class_ids int32 [N, K], scores float32 [N, K],
                                       embeddings float32 [N, D])
and answers each image alike whatever the batch it comes in. Beam is not needed for it.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any

import numpy as np
import pyarrow as pa

from imagecensus.model_export.common import fault_injection
from imagecensus.model_export.common.redact import redact
from imagecensus.model_export.contract import check_digest, read_contract
from imagecensus.model_export.precision import check_golden, read_golden_of
from imagecensus.transforms.activity import doing
from imagecensus.transforms.copies import Answers, KnownAnswers
from imagecensus.transforms.engines.registry import choose_engine, load_engine
from imagecensus.transforms.local_run import LOCAL_RUN
from imagecensus.transforms.records import (
    FACT_TYPES,
    REF_COLUMNS,
    STATUS_TYPE,
    TOP_K_TYPE,
    ImageBatch,
    PredictionBatch,
    Status,
    prediction_schema,
)
from imagecensus.transforms.storage.copies import local_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """How images are classified; the same on every worker."""

    model: str  # model folder, also in a store
    engine: str  # "auto": each worker chooses
    precision: str = "f32"
    top_k: int = 5
    embeddings: bool = False
    threads: int = 0  # 0: one per core
    digest: str = ""  # of the model that the launcher checked; workers refuse another


def infer_bisecting(
    engine: Any, pixels: np.ndarray, noted: collections.Counter[str] | None = None
) -> Answers:
    """Answers of an engine; a batch that fails is halved until the images at fault are alone.

    Args:
      engine: see `engines.registry`.
      pixels: uint8 [N, height, width, 3].
      noted: counts `batches_split`.

    Returns:
      (class_ids [N, K], scores [N, K], embeddings [N, D], errors: N messages or None). Rows with
      an error hold zeros. The arrays are None where not one image could be answered.
    """
    try:
        class_ids, scores, embeddings = engine.infer(pixels)
        if not np.isfinite(scores).all():
            raise FloatingPointError("a score is not a finite number")
        return class_ids, scores, embeddings, [None] * len(pixels)
    except Exception as error:
        if len(pixels) == 1:
            return None, None, None, [f"{type(error).__name__}: {error}"]
        if noted is not None:
            noted["batches_split"] += 1
        half = len(pixels) // 2
        left = infer_bisecting(engine, pixels[:half], noted)
        right = infer_bisecting(engine, pixels[half:], noted)
        arrays: list[np.ndarray | None] = []
        for a, b in zip(left[:3], right[:3], strict=True):
            if a is None and b is None:
                arrays.append(None)
                continue
            like = a if a is not None else b
            a = np.zeros((half, *like.shape[1:]), like.dtype) if a is None else a
            if b is None:
                b = np.zeros((len(pixels) - half, *like.shape[1:]), like.dtype)
            arrays.append(np.concatenate([a, b]))
        return (arrays[0], arrays[1], arrays[2], left[3] + right[3])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Answered:
    """What became of the images of a batch.

    Attributes:
      status, error: of each row.
      rows: int64 [A], the rows that have an answer.
      class_ids, scores: int32 and float32 [A, K].
      embeddings: float32 [A, D].
      noted: what is counted, by the counter's name.
    """

    status: list[str]
    error: list[str | None]
    rows: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
    noted: collections.Counter[str]


def classify_batch(
    batch: ImageBatch,
    engine: Any,
    labels: pa.Array,
    config: ClassificationConfig,
    embedding_size: int,
    *,
    known: KnownAnswers | None = None,
) -> PredictionBatch:
    """One decoded batch as finished rows of `prediction_schema`.

    Args:
      batch: its images, and references that have failed already.
      engine: see `engines.registry`.
      labels: string [classes].
      config: what is asked for.
      embedding_size: of the model.
      known: the answers that copies of images before have.

    Returns:
      Every reference of the batch as exactly one row.
    """
    answered = _infer(batch, engine, config, embedding_size, known or KnownAnswers())
    refs = batch.refs
    columns = {
        "uri": refs.column("uri"),
        "status": pa.array(answered.status, pa.string()).dictionary_encode().cast(STATUS_TYPE),
        "error": pa.array([text and redact(text) for text in answered.error], pa.string()),
        **_answer_columns(answered, labels, len(batch)),
        "width": pa.array(batch.width, pa.int32()),
        "height": pa.array(batch.height, pa.int32()),
        "format": pa.array(batch.format, pa.string()),
        "bytes": pa.array(batch.bytes, pa.int64()),
        "etag_or_mtime": refs.column("etag_or_mtime"),
    }
    if config.embeddings:
        columns["embedding"] = _embedding_column(answered, len(batch), embedding_size)
    columns |= {n: pa.array(values, FACT_TYPES[n]) for n, values in batch.facts.items()}
    passthrough = [field for field in refs.schema if field.name not in REF_COLUMNS]
    for field in passthrough:
        columns[field.name] = refs.column(field.name)
    size = embedding_size if config.embeddings else None
    schema = prediction_schema(pa.schema(passthrough), size, tuple(batch.facts))
    table = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
    return PredictionBatch(unit=batch.unit, rows=table, last=batch.last, noted=answered.noted)


def _infer(
    batch: ImageBatch,
    engine: Any,
    config: ClassificationConfig,
    embedding_size: int,
    known: KnownAnswers,
) -> _Answered:
    """Asks the engine about the decoded images; those that it fails on are failed rows."""
    status, error = list(batch.status), list(batch.error)
    noted: collections.Counter[str] = collections.Counter()
    good = np.flatnonzero([value == Status.OK.value for value in status])
    class_ids = np.zeros((0, config.top_k), np.int32)
    scores = np.zeros((0, config.top_k), np.float32)
    embeddings = np.zeros((0, embedding_size), np.float32)
    if len(good):
        fault_injection.reached("infer")
        what = f"{len(good)} images of unit {batch.unit.name}"
        with doing("inference", what), LOCAL_RUN.measure_process("infer"):
            hashes = batch.facts.get("xxh128") or [None] * len(batch)
            answers, copies = known.infer(
                functools.partial(infer_bisecting, engine, noted=noted),
                batch.pixels,
                [hashes[row] for row in good],
            )
        if copies:
            noted["images_copied"] += copies
        errors = answers[3]
        for row, message in zip(good, errors, strict=True):
            if message is not None:
                status[row], error[row] = Status.INFERENCE_ERROR.value, message
        answered = [message is None for message in errors]
        good = good[answered]
        if len(good):
            class_ids = np.ascontiguousarray(answers[0][answered][:, : config.top_k], np.int32)
            scores = np.ascontiguousarray(answers[1][answered][:, : config.top_k], np.float32)
            embeddings = answers[2][answered]
    return _Answered(
        status=status,
        error=error,
        rows=good,
        class_ids=class_ids,
        scores=scores,
        embeddings=embeddings,
        noted=noted,
    )


def _answer_columns(answered: _Answered, labels: pa.Array, rows: int) -> dict[str, pa.Array]:
    """`label`, `class_id`, `score` and `top_k` of all rows, null where there is no answer."""
    good, class_ids = answered.rows, answered.class_ids
    # Row i of the output takes answer `at[i]`, or null.
    at = np.full(rows, -1)
    at[good] = np.arange(len(good))
    take = pa.array(at, pa.int32(), mask=at < 0)
    flat_ids = pa.array(class_ids.ravel(), pa.int32())
    flat_labels = labels.take(flat_ids)
    flat_scores = pa.array(answered.scores.ravel(), pa.float32())
    fields = [TOP_K_TYPE.value_type.field(i) for i in range(TOP_K_TYPE.value_type.num_fields)]
    entries = pa.StructArray.from_arrays([flat_labels, flat_ids, flat_scores], fields=fields)
    offsets = np.arange(len(good) + 1, dtype=np.int32) * class_ids.shape[1]
    top_k = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), entries, type=TOP_K_TYPE)
    best = pa.array(offsets[:-1], pa.int32())
    return {
        "label": flat_labels.take(best).take(take),
        "class_id": flat_ids.take(best).take(take),
        "score": flat_scores.take(best).take(take),
        "top_k": top_k.take(take),
    }


def _embedding_column(answered: _Answered, rows: int, size: int) -> pa.Array:
    # Rows without an answer hold a list of nulls, not a null: pyarrow writes null fixed-size
    # lists to Parquet and cannot read them back (apache/arrow#35692).
    vectors = np.zeros((rows, size), np.float32)
    vectors[answered.rows] = answered.embeddings
    missing = np.ones(rows, bool)
    missing[answered.rows] = False
    values = pa.array(vectors.ravel(), mask=np.repeat(missing, size))
    return pa.FixedSizeListArray.from_arrays(values, size)


@dataclasses.dataclass(kw_only=True)
class LoadedClassifier:
    """What one process holds: the engine and what turns its answers into rows."""

    engine: Any
    name: str  # of the engine
    note: str  # how large its calls are, where it measured that; else ""
    labels: pa.Array
    embedding_size: int
    known: KnownAnswers = dataclasses.field(default_factory=KnownAnswers)


def load_classifier(config: ClassificationConfig) -> LoadedClassifier:
    """Loads the engine and checks it on the golden images before any image is read.

    Raises: EngineError: the engine, or any that could do this, is not installed here.
    """
    model = local_folder(config.model)
    contract = read_contract(model)
    check_digest(contract, config.digest, config.model)
    name = choose_engine(config.engine, config.precision, config.embeddings)
    engine = load_engine(name, model, config.precision, config.threads)
    golden = read_golden_of(model, config.precision)
    class_ids, scores, _ = engine.infer(golden.images)
    who = f"{config.model} ({name})"
    check_golden(golden, class_ids, scores, who, config.precision)
    LOCAL_RUN.ready()
    return LoadedClassifier(
        engine=engine,
        name=name,
        note=getattr(engine, "note", ""),
        labels=pa.array(contract.labels, pa.string()),
        embedding_size=contract.embedding_size,
    )
