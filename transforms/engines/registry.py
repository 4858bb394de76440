"""The engines by name. Each lives in its own module and is imported only when asked for."""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.util
from typing import Protocol

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.contract import Answers, Pixels, has_saved_model

# name: (module, the package it needs, precisions)
ENGINES = {
    "openvino": (
        "imagecensus.transforms.engines.openvino_engine",
        "openvino",
        ("f32", "bf16", "int8"),
    ),
    "tensorflow": ("imagecensus.transforms.engines.tensorflow_engine", "tensorflow", ("f32",)),
    "tfx-bsl": ("imagecensus.transforms.engines.tfx_bsl_engine", "tfx_bsl", ("f32",)),
}


class Engine(Protocol):
    """A model that is loaded."""

    def infer(self, pixels: Pixels) -> Answers:
        """Answers for uint8 [N, H, W, 3], as the model's spec makes them of images."""


class EngineError(UserError):
    """An engine cannot be used here. The message says what to install or choose."""


AUTO = "auto"  # of engines; of precisions: see `choose_precision`

# Engines whose signature answers without embeddings.
WITHOUT_EMBEDDINGS = ("tfx-bsl",)


def choose_engine(
    name: str, precision: str = "f32", embeddings: bool = False, *, here: bool = True
) -> str:
    """Resolves "auto" and checks that the engine can run here.

    "auto" is TensorFlow where it sees a GPU, OpenVINO on CPUs, of those that are installed and have
    the precision. It stays "auto" with `here` false: the model runs on workers, which choose.

    Raises:
      EngineError: the engine is not known, not installed where it is to run, or cannot do this.
    """
    if name == AUTO:
        if not here:
            return AUTO
        order = ("tensorflow", "openvino") if has_gpu() else ("openvino", "tensorflow")
        able = [one for one in order if precision in (*ENGINES[one][2], AUTO)] or order
        name = next((one for one in able if _installed(ENGINES[one][1])), able[0])
    if name not in ENGINES:
        raise EngineError(f"--engine={name}: choose one of auto, {', '.join(ENGINES)}")
    _, package, precisions = ENGINES[name]
    if here and not _installed(package):
        source = "openvino" if package == "openvino" else "'imagecensus[tensorflow]'"
        raise EngineError(
            f"--engine={name}: {package} is not installed; run `pip install {source}`"
        )
    if embeddings and name in WITHOUT_EMBEDDINGS:
        raise EngineError(
            f"--engine={name}: gives no embeddings; choose another, or leave them out"
        )
    if precision not in (*precisions, AUTO):
        raise EngineError(
            f"--precision={precision}: choose auto, or what {name} has: {', '.join(precisions)}"
        )
    return name


def match_engine(engine: str, asked: str, model: str) -> str:
    """The engine for a model folder: `engine`, unless the model is one that only OpenVINO reads.

    Args:
      engine: as `choose_engine` answered for `asked`.
      asked: what the user said.
      model: model folder.

    Raises:
      EngineError: another engine was asked for by name.
    """
    if engine == "openvino" or has_saved_model(model):
        return engine
    if asked != AUTO:
        raise EngineError(
            f"--engine={asked}: {model} is an OpenVINO graph, which {engine} cannot read; use"
            " --engine=openvino"
        )
    return "openvino"


# Engines that a thread is loading: (name, model, precision, threads) to a future of the engine.
_preloading: dict[tuple[str, str, str, int], concurrent.futures.Future[Engine]] = {}


def preload_engine(name: str, model: str, precision: str = "f32", threads: int = 0) -> None:
    """Begins to load in a thread; the next `load_engine` of the same arguments takes it over."""
    importlib.import_module(ENGINES[name][0])  # not in that thread, beside other imports
    pool = concurrent.futures.ThreadPoolExecutor(1, "load")
    future = pool.submit(_load, name, model, precision, threads)
    _preloading[name, model, precision, threads] = future
    pool.shutdown(wait=False)


def load_engine(name: str, model: str, precision: str = "f32", threads: int = 0) -> Engine:
    """Loads a model folder into an engine.

    Args:
      name: of the engine, not "auto".
      model: model folder.
      precision: one that `ENGINES` lists for it.
      threads: of inference; 0: one per core.
    """
    preloading = _preloading.pop((name, model, precision, threads), None)
    if preloading:
        return preloading.result()
    return _load(name, model, precision, threads)


def _load(name: str, model: str, precision: str, threads: int) -> Engine:
    engine: Engine = importlib.import_module(ENGINES[name][0]).load(model, precision, threads)
    return engine


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def has_gpu() -> bool:
    """Whether this machine has a GPU, and TensorFlow to use it."""
    # Asked of the driver's device files: importing TensorFlow to ask it takes ten seconds.
    import glob

    return bool(glob.glob("/dev/nvidia[0-9]*")) and _installed("tensorflow")
