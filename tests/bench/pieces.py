"""Pieces of the path, each timed alone in a process of its own: `pieces.py NAME ARGUMENT...`.

Each prints one JSON object: images, wall and cpu seconds of the timed part, and what it found.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import sys
import tempfile
import time

import numpy as np
from archive import every_file, large_photos, read_all
from measure import machine_seconds

from imagecensus.model_export.preprocess import (
    ImageError,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)

PASSES = 3


def decode(folder: str, count: str, threads: str = "0") -> dict:
    """The decode function alone, on all threads, from bytes in memory; best of three."""
    files = read_all(folder, int(count))
    return best(lambda: _decode_all(files, PreprocessSpec(), int(threads)), len(files))


def infer(folder: str, model: str, engine: str, batch: str, precision: str, count: str) -> dict:
    """An engine alone on decoded images; `batch` 0 is the engine's own choice. Best of three."""
    from imagecensus.transforms.engines import registry

    module = __import__(registry.ENGINES[engine][0], fromlist=["_"])
    if int(batch):
        for name in ("REQUEST_IMAGES", "CALL_IMAGES_CPU", "CALL_IMAGES"):
            if hasattr(module, name):
                setattr(module, name, int(batch))
    loaded = module.load(model, precision, 0)
    pixels = _decode_all(read_all(folder, int(count)), PreprocessSpec())
    loaded.infer(pixels[:64])
    return best(lambda: loaded.infer(pixels), len(pixels))


def training_input(folder: str, count: str, augmentation: str, on_device: str) -> dict:
    """The input pipeline of training alone, over decoded photos; best of three.

    `on_device`: "1" as where GPUs augment, so that the pipeline has not to.
    """
    import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401  before TensorFlow
    from imagecensus.model_export.training import features, fit
    from imagecensus.model_export.training.augment import Augmentation
    from imagecensus.model_export.training.decoded_images import Images

    fit.on_device = lambda: on_device == "1"
    pixels = _decode_all(read_all(folder, int(count)), PreprocessSpec())
    rows = np.arange(len(pixels))
    images = Images(
        pixels=pixels, rows=rows, labels=(rows % 10).astype(np.int32), names=tuple(map(str, rows))
    )
    inputs = features.image_inputs(images, PreprocessSpec(), Augmentation.parse(augmentation))
    weights = np.ones(10, np.float32)
    spec = fit.FitSpec(batch_size=32)
    batches = iter(fit.stream(inputs, batch=32, spec=spec, weights=weights, first_epoch=0))
    next(batches)
    steps = len(pixels) // 32

    def epoch() -> None:
        for _ in range(steps):
            next(batches)

    return best(epoch, steps * 32)


def reads(kind: str, url: str, count: str) -> dict:
    """Reading the object 55.jpg of a store on loopback, one request each, by 64 threads.

    `kind`: a scheme as in `cloud.STORES`, or `bare`: obstore without anything of ours.
    """
    if kind == "bare":
        import obstore
        from obstore.store import S3Store

        bare = S3Store("photos", client_options={"allow_http": True})

        def read(_: int) -> bytes:
            return obstore.get(bare, "55.jpg").bytes().to_bytes()
    else:
        from imagecensus.transforms.image_ref import ImageRef
        from imagecensus.transforms.read_images import read_image
        from imagecensus.transforms.storage.web.policy import WebPolicy

        WebPolicy(allow_private_hosts=True, host_connections=64).apply()
        uri = f"{url if kind == 'https' else f'{kind}:/'}/photos/55.jpg"

        def read(_: int) -> bytes:
            return read_image(ImageRef(uri=uri, size=1, etag="1"))

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        list(pool.map(read, range(200)))
        return best(lambda: list(pool.map(read, range(int(count)))), int(count))


def listing(uri: str) -> dict:
    """Every object of a prefix, listed once."""
    from imagecensus.transforms.storage import store

    count = 0

    def count_all() -> None:
        nonlocal count
        count = len({found.uri for found in store.store_of(uri).list(uri)})

    answer = timed(count_all, 1)
    return {**answer, "images": count}


def large(model: str, count: str) -> dict:
    """12-megapixel JPEGs: DCT scaling against full decoding, and how far the answers agree."""
    from imagecensus.transforms.engines.registry import load_engine

    files = large_photos(int(count))
    full = PreprocessSpec(dct_margin=0, reducing_gap=0)
    engine = load_engine("openvino", model)
    specs = {"scaled": PreprocessSpec(), "full": full}
    pixels = {name: [] for name in specs}
    seconds = dict.fromkeys(specs, 0.0)
    for data in files:  # in turn, so that whatever else runs slows both
        for name, spec in specs.items():
            start = time.thread_time()
            pixels[name].append(_decode(data, spec))
            seconds[name] += time.thread_time() - start
    pixels = {name: np.stack(arrays) for name, arrays in pixels.items()}
    answer = {"images": len(files)}
    answer.update({f"{name}_ms": spent / len(files) * 1e3 for name, spent in seconds.items()})
    ids, scores, _ = engine.infer(pixels["full"])
    other_ids, other_scores, _ = engine.infer(pixels["scaled"])
    return {**answer, **agreement(ids, scores, other_ids, other_scores)}


def precision(folder: str, model: str, name: str, count: str) -> dict:
    """A lower precision against f32 on the same pixels: speed side by side, and agreement.

    int8 is nncf's, calibrated on a quarter of the images; the others are compared.
    """
    from imagecensus.transforms.engines import openvino_engine

    pixels = _decode_all(read_all(folder, int(count)), PreprocessSpec())
    calibration = np.zeros(len(pixels), bool)
    calibration[::4] = True
    with tempfile.TemporaryDirectory() as place:
        quantised, kind = model, name
        if name == "int8":
            quantised, kind = os.path.join(place, "int8.xml"), "f32"
            _save_int8(model, pixels[calibration], quantised)
        loaded = {"f32": openvino_engine.load(model, "f32", 0)}
        loaded[name] = openvino_engine.load(quantised, kind, 0)
    pixels = pixels[~calibration]
    answers, cpu, wall = {}, {}, {}
    for _ in range(PASSES):
        for kind, engine in loaded.items():
            start = time.monotonic(), time.process_time()
            answers[kind] = engine.infer(pixels)
            wall.setdefault(kind, []).append(time.monotonic() - start[0])
            cpu.setdefault(kind, []).append(time.process_time() - start[1])
    return {
        "images": len(pixels),
        "speedup_wall": min(wall["f32"]) / min(wall[name]),
        "speedup_cpu": min(cpu["f32"]) / min(cpu[name]),
        **agreement(*answers["f32"][:2], *answers[name][:2]),
    }


def _save_int8(model: str, pixels: np.ndarray, path: str) -> None:
    """nncf's post-training quantisation of a model folder, as an OpenVINO file."""
    import nncf
    import openvino as ov

    batch = 2
    graph = ov.Core().read_model(model)
    graph.reshape([batch, *pixels.shape[1:]])
    batches = [pixels[at : at + batch] for at in range(0, len(pixels) - 1, batch)]
    preset = nncf.QuantizationPreset.MIXED
    graph = nncf.quantize(graph, nncf.Dataset(batches), preset=preset, subset_size=len(batches))
    ov.save_model(graph, path, compress_to_fp16=False)


def alike(model: str, every: str = "1") -> dict:
    """Every engine, in two ways of cutting batches, on every file of the shared folder.

    Labels must be equal, scores within 1e-4 between engines and 1e-6 within one.
    """
    from imagecensus.transforms.engines.registry import ENGINES, load_engine

    pixels = []
    for path in every_file()[:: int(every)]:
        with contextlib.suppress(ImageError):
            pixels.append(_decode(path.read_bytes(), PreprocessSpec()))
    pixels = np.stack(pixels)
    answer = {"images": len(pixels)}
    reference = None
    for name in ENGINES:
        engine = load_engine(name, model)
        ids, scores, _ = engine.infer(pixels)
        cut = [engine.infer(pixels[at : at + 7]) for at in range(0, min(len(pixels), 700), 7)]
        again = np.concatenate([part[1] for part in cut])
        answer[f"{name} within"] = float(np.abs(again - scores[: len(again)]).max())
        if reference is None:
            reference = ids, scores
        answer[f"{name} labels differ"] = int((ids[:, 0] != reference[0][:, 0]).sum())
        answer[f"{name} score difference"] = float(np.abs(scores - reference[1]).max())
    return answer


def agreement(ids, scores, other_ids, other_scores) -> dict:
    """Top-1 agreement, and the distribution of the best class's score difference."""
    differences = np.abs(scores[:, 0] - other_scores[:, 0])
    quantiles = np.percentile(differences, [50, 95, 99, 100])
    return {
        "top1_agreement": float((ids[:, 0] == other_ids[:, 0]).mean()),
        **dict(
            zip(
                ("difference_median", "difference_p95", "difference_p99", "difference_max"),
                map(float, quantiles),
                strict=True,
            )
        ),
    }


def best(work, images: int) -> dict:
    """The cheapest of a few passes: what the machine can do, least disturbed by others."""
    return min((timed(work, images) for _ in range(PASSES)), key=lambda t: t["core"])


def timed(work, images: int) -> dict:
    """Calls `work`; wall, CPU and core seconds: its own and those that it left idle."""
    idle, wall, cpu = machine_seconds()[0], time.monotonic(), time.process_time()
    work()
    cpu, idle = time.process_time() - cpu, machine_seconds()[0] - idle
    return {"images": images, "wall": time.monotonic() - wall, "cpu": cpu, "core": cpu + idle}


def _decode_all(files: list[bytes], spec: PreprocessSpec, threads: int = 0) -> np.ndarray:
    pixels = np.empty((len(files), *spec.shape), np.uint8)

    def some(rows: range) -> None:
        for row in rows:
            decode_image(files[row], spec, pixels[row])

    with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        tasks = [range(at, min(at + 4, len(files))) for at in range(0, len(files), 4)]
        list(pool.map(some, tasks))
    return pixels


def _decode(data: bytes, spec: PreprocessSpec) -> np.ndarray:
    out = np.empty(spec.shape, np.uint8)
    decode_image(data, spec, out)
    return out


if __name__ == "__main__":
    configure_pillow()
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
