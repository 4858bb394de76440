"""Train on the shared photos over several seeds, and classify their test split with the batch job.

    python -m tests.bench.reach [TASK ...] [--seeds 0,1,2]

Prints, for each task and seed: the trainer's accuracy, the accuracy computed from the batch job's
Parquet, and on how many images the two disagree (expected: none).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import sys
import tempfile
import time

import pyarrow.parquet as pq

from tests.bench.measure import ROOT, run

DATA = ROOT.parent / "shared" / "data"
WEIGHTS = DATA / "weights" / "mobilenet_v2_1.0_224_no_top.weights.h5"
# task: data, options, split the goal is about, goal
TASKS = {
    "cats_dogs": ("cats_dogs", f"--recipe cats-dogs-transfer --weights {WEIGHTS}", "test", 0.97),
    "flower_photos": ("flower_photos", f"--recipe flower-photos --weights {WEIGHTS}", "test", 0.85),
    "bikes-transfer": ("bikes", f"--recipe bikes-transfer --weights {WEIGHTS}", "test", 0.93),
    "bikes": ("bikes", "--recipe bikes", "train", 0.99),
    "mnist": ("mnist_png", "--recipe mnist", "test", 0.97),
    "cifar10": ("cifar10", "--recipe cifar10", "test", 0.45),
}


def compare(model: str, output: str) -> tuple[float, float, int]:
    """The trainer's and the job's accuracy on the test split, and how many answers differ.

    Raises:
      ValueError: the job's table does not hold exactly the trainer's test images.
    """
    trained = pq.read_table(f"{model}.training/predictions.parquet").to_pandas()
    trained = trained[trained.split == "test"].set_index("uri")
    table = pq.read_table(f"{output}/predictions", columns=["uri", "status", "label"])
    job = table.to_pandas().set_index("uri").rename(columns={"label": "answer"})
    job = job[job.status == "ok"]
    if set(job.index) != set(trained.index):
        raise ValueError(f"{output}: not the trainer's images")
    both = trained.join(job)
    return (
        float((both.label == both.predicted).mean()),
        float((both.label == both.answer).mean()),
        int((both.predicted != both.answer).sum()),
    )


def _children_cpu() -> float:
    """CPU seconds of all finished children: they do not depend on what else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--skip-classify", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        for task in options.tasks:
            data, flags, split, goal = TASKS[task]
            for seed in options.seeds.split(","):
                model = os.path.join(folder, f"{task}-{seed}")
                words = ["train", DATA / data, "--output", model, "--seed", seed, "--quiet"]
                started, cpu_before = time.monotonic(), _children_cpu()
                run([sys.executable, "-m", "imagecensus.jobs.cli", *words, *flags.split()])
                seconds = time.monotonic() - started
                cpu_seconds = _children_cpu() - cpu_before
                contract = json.loads(
                    (pathlib.Path(model) / "assets.extra" / "contract.json").read_text()
                )
                line = {
                    "task": task,
                    "seed": int(seed),
                    "split": split,
                    "goal": goal,
                    "accuracy": round(contract["metrics"][split]["accuracy"], 4),
                    "train_seconds": round(seconds, 1),
                    "cpu_seconds": round(cpu_seconds, 1),
                }
                if not options.skip_classify:
                    table = model + ".table"
                    words = ["classify", DATA / data / "test", "--output", table, "--model", model]
                    run([sys.executable, "-m", "imagecensus.jobs.cli", *words])
                    line["test_trainer"], line["test_job"], line["differ"] = compare(model, table)
                print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
