"""Which precision a run takes: what was asked for, what the model carries, what the machine has."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

from imagecensus.model_export.contract import Contract, Infer, ModelError
from imagecensus.model_export.precision import (
    F32,
    INT8,
    check_golden,
    has_int8,
    judge_int8,
    read_golden_of,
)
from imagecensus.transforms.engines.race import kept, race, repeated
from imagecensus.transforms.engines.registry import AUTO, ENGINES, EngineError, load_engine

MIN_SPEEDUP = 1.1  # less is not worth any loss
RACE_IMAGES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A precision, and why, for the summary; no reason where there was nothing to choose."""

    precision: str
    reason: str = ""


def choose_precision(
    asked: str, engine: str, model: str, contract: Contract, *, present: str = "", here: bool = True
) -> Choice:
    """Resolves `--precision`.

    Args:
      asked: `auto` or a precision by name.
      engine: name of the engine; "auto": each worker takes one that has the precision.
      model: folder of the model.
      contract: of the model.
      present: precision of the dataset that the run goes on with; `auto` keeps it.
      here: whether this machine does the inference, so that its speed decides.

    Raises:
      EngineError: int8 was asked for and the model carries none.
    """
    if asked == INT8 and not has_int8(model):
        raise EngineError(
            f"--precision=int8: {model} carries no int8 graph; make one with"
            " `imagecensus quantize`, or leave the flag out"
        )
    if asked != AUTO:
        return Choice(precision=asked)
    if present:
        return Choice(precision=present, reason="as the dataset was begun")
    if not has_int8(model):
        return Choice(precision=F32)
    if engine != AUTO and INT8 not in ENGINES[engine][2]:
        return Choice(precision=F32, reason=f"{engine} has no int8")
    allowed, reason = judge_int8(contract)
    if allowed and here:
        speedup, problem = _speed_here(model, contract.digest)
        if problem or speedup < MIN_SPEEDUP:
            return Choice(
                precision=F32,
                reason=problem or f"int8 is {speedup:.2f} times as fast on this processor, no gain",
            )
        reason += f"; {speedup:.1f} times as fast here"
    return Choice(precision=INT8 if allowed else F32, reason=reason)


def load_infer(model: str, precision: str) -> Infer:
    """The function `infer` of a model in OpenVINO."""
    return load_engine("openvino", model, precision).infer


def _speed_here(model: str, digest: str) -> tuple[float, str]:
    """How many times as fast int8 is on this processor, and what forbids it ("": nothing).

    Measured once for each processor and model; kept in the cache folder.
    """
    found = kept(
        ("int8", f"{_processor()}-{digest[:16]}.json"), functools.partial(_measure_speed, model)
    )
    return float(found["speedup"]), str(found["problem"])


def _measure_speed(model: str) -> dict[str, Any]:
    infer = [load_infer(model, name) for name in (F32, INT8)]
    golden, problem = read_golden_of(model, INT8), ""
    try:
        class_ids, scores, _ = infer[1](golden.images)
        check_golden(golden, class_ids, scores, model, INT8)
    except ModelError as error:
        problem = str(error)
    rates = race(infer, repeated(golden.images, RACE_IMAGES))
    return {"speedup": rates[1] / rates[0], "problem": problem}


def _processor() -> str:
    """Names the processor by its model and its instructions, hex."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith(("model name", "flags", "Features"))]
    except OSError:
        lines = []
    return hashlib.sha256("".join(sorted(set(lines))).encode()).hexdigest()[:12]
