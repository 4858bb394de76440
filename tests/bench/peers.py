"""What else one would write to label a folder of photos: `peers.py NAME FOLDER MODEL OUTPUT`.

Each reads JPEGs from disk and writes a Parquet table of path, class_id and score, in the few lines
that its own documentation shows. Prints one JSON object: images, and `steady`, the seconds from the
loaded model to the written table. Ray Data and Daft are no dependencies: `make peers` installs
them in an environment of their own, beside what is in .venv.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import signal
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
from archive import WEIGHTS
from measure import machine_seconds

SIDE, BATCH = 224, 32
_PR_SET_CHILD_SUBREAPER = 36


def keras(folder: str, model: str, output: str) -> dict:
    """`image_dataset_from_directory` and `predict`, with their default settings."""
    import keras
    import numpy as np

    preprocess = keras.applications.mobilenet_v2.preprocess_input
    network = keras.applications.MobileNetV2(weights=str(WEIGHTS) if WEIGHTS.exists() else None)
    network.predict(np.zeros((BATCH, SIDE, SIDE, 3)), verbose=0)  # traced: that is start-up
    loaded, idle, cpu = time.monotonic(), machine_seconds()[0], time.process_time()
    photos = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(SIDE, SIDE), shuffle=False, verbose=False
    )
    scores = network.predict(photos.map(preprocess), verbose=0)
    columns = {"path": photos.file_paths, "class_id": scores.argmax(1), "score": scores.max(1)}
    os.makedirs(output)
    pq.write_table(pa.table(columns), os.path.join(output, "table.parquet"))
    cpu, idle = time.process_time() - cpu, machine_seconds()[0] - idle
    return {"steady": time.monotonic() - loaded, "steady_core": cpu + idle}


def ray(folder: str, model: str, output: str) -> dict:
    """`read_images`, and the SavedModel in `map_batches` of one actor."""
    import ray.data

    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    (
        ray.data.read_images(folder, size=(SIDE, SIDE), mode="RGB", include_paths=True)
        .map_batches(
            _Network,
            fn_constructor_args=(model, output),
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=1,
        )
        .write_parquet(output)
    )
    return _since_loaded(output)


def daft(folder: str, model: str, output: str) -> dict:
    """`from_glob_path`, the expressions for images, and the SavedModel in a class of batches."""
    import daft
    import numpy as np
    from daft.functions import decode_image, download, resize

    kind = daft.DataType.struct(
        {"class_id": daft.DataType.int32(), "score": daft.DataType.float32()}
    )

    @daft.cls(max_concurrency=1)
    class Network:
        def __init__(self):
            self._network = _Network(model, output)

        @daft.method.batch(return_dtype=kind, batch_size=BATCH)
        def classify(self, photos):
            class_ids, scores = self._network.classify(np.stack(photos.to_pylist()))
            return pa.StructArray.from_arrays([class_ids, scores], ["class_id", "score"])

    answer = Network().classify(daft.col("image"))
    (
        daft.from_glob_path(f"{folder}/*.jpg")
        .select("path", image=resize(decode_image(download(daft.col("path"))), SIDE, SIDE))
        .select("path", answer=answer)
        .select("path", *(daft.col("answer").get(name) for name in ("class_id", "score")))
        .write_parquet(output)
    )
    return _since_loaded(output)


class _Network:
    """The SavedModel, for engines that load it in their own workers and call it with batches."""

    def __init__(self, model: str, output: str):
        import tensorflow as tf

        self._loaded = tf.saved_model.load(model)  # a signature alone does not keep it alive
        self._serve = self._loaded.signatures["serving_default"]
        pathlib.Path(f"{output}.loaded").write_text(str(time.time()))

    def __call__(self, batch: dict) -> dict:
        class_id, score = self.classify(batch["image"])
        return {"path": batch["path"], "class_id": class_id, "score": score}

    def classify(self, pixels):
        """class_id int32 [N] and score float32 [N] of uint8 [N, 224, 224, 3]."""
        import tensorflow as tf

        answer = self._serve(images=tf.constant(pixels))
        return answer["class_ids"].numpy()[:, 0], answer["scores"].numpy()[:, 0]


def _since_loaded(output: str) -> dict:
    return {"steady": time.time() - float(pathlib.Path(f"{output}.loaded").read_text())}


def _with_all_its_processes(work) -> None:
    """Calls `work` in a child; ends when nothing that it started is left.

    A daemon that its parent leaves behind becomes a child of this process, so that its CPU seconds
    are among those that whoever started this process reads.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if not child:
        work()
        return
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    deadline = time.monotonic() + 10
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            break
        if time.monotonic() > deadline:
            for left in (
                pathlib.Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
            ):
                os.kill(int(left), signal.SIGKILL)
        time.sleep(0.01)
    os._exit(code if code >= 0 else 128 - code)


def main(name: str, folder: str, model: str, output: str) -> None:
    answer = globals()[name](folder, model, output)
    rows = pq.read_table(output, columns=["path"]).num_rows
    print(json.dumps({"images": rows, **answer}), flush=True)


if __name__ == "__main__":
    _with_all_its_processes(lambda: main(*sys.argv[1:]))
