"""`make bench`: what the machine can do, and how near to it the job comes, side by side.

Prints tables and writes bench.json with the machine's description. The pieces of a ratio are
timed in turn, several rounds, and the median is taken; see `measure` on what a rate means.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys
import time

import archive
import bucket_rerun
import cloud
import compare
import dedup
import forecast
import load
import rerun
import scale
import simulate
import worker_listing
from archive import make_archive
from measure import job, piece, run

CORES = os.cpu_count()
DEDUP_KNOWN = 40_000_000
LISTED = 500_000
MERGED = 10_000_000
TABLE_ROWS = 4_096_000
ENGINES = ("openvino", "tensorflow", "tfx-bsl")
AUGMENT = "flip,rotation=15,zoom=0.2,shift=0.1,brightness=0.2,contrast=0.2"
TRAINING = {  # what `--augment` says, and whether devices do it
    "as they are": ("", 0),
    "augmented": (AUGMENT, 0),
    "augmented by the device": (AUGMENT, 1),
}
BATCHES = {"openvino": (1, 2, 4, 8, 16, 32), "tensorflow": (8, 16, 32, 64)}


class Bench:
    """The sections. Each prints its table and returns what goes into bench.json."""

    def __init__(self, folder: pathlib.Path, images: int, rounds: int):
        self.folder, self.images, self.rounds = folder, images, rounds
        # By a child: a child's peak memory begins at what its parent has when it starts it.
        self.model = str(folder / "model")
        run([sys.executable, pathlib.Path(archive.__file__), self.model])
        self.photos = make_archive(folder / f"photos-{images}", images)
        self._quantized = str(folder / "model-int8")

    def _int8_model(self) -> str:
        """The same model with an int8 version; "" without nncf, which makes it."""
        if not importlib.util.find_spec("nncf"):
            print("nncf is not installed: int8 is left out", flush=True)
            return ""
        if not os.path.exists(self._quantized):
            code = "from imagecensus.jobs.cli import command; command()"
            words = ["quantize", self.model, "--images", self.photos, "--output", self._quantized]
            run([sys.executable, "-c", code, *words, "--json"])
        return self._quantized

    def _precisions(self) -> dict[str, str]:
        """The flag of each precision that is measured, and its model."""
        models = {"f32": self.model, "int8": self._int8_model()}
        return {f"--precision={name}": model for name, model in models.items() if model}

    def job(self, photos: pathlib.Path, *flags, env: dict | None = None) -> dict:
        return job(photos, self._fresh(), self.model, *flags, env=env)

    def _fresh(self) -> pathlib.Path:
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        return self.folder / "out"

    def batches(self) -> dict:
        """Each engine's best batch, on decoded images."""
        rows = {}
        for engine, sizes in BATCHES.items():
            for size in sizes:
                found = piece("infer", self.photos, self.model, engine, size, "f32", 512)
                rows[f"{engine} batch {size}"] = _rate(found)
        show("inference alone, by batch (images/s, CPU ms an image)", rows)
        return rows

    def throughput(self, engines=("openvino",)) -> dict:
        """The job against its limit."""
        rounds = []
        for _ in range(self.rounds):
            found = {"decode": _rate(piece("decode", self.photos, 1236))}
            for engine in engines:
                found[engine] = self._against_limit(engine, found["decode"])
            rounds.append(found)
        rows = {"decode alone": _median([r["decode"] for r in rounds])}
        for engine in engines:
            rows[engine] = _median([r[engine] for r in rounds])
        show("throughput (images/s; ratios to the limit 1 / (1/inference + 1/decode))", rows)
        return {"median": rows, "rounds": rounds}

    def int8(self) -> dict:
        """int8 and float32 of the same model against their limits, in turn."""
        model = self._int8_model()
        if not model:
            return {}
        rounds: dict[str, list[dict]] = {"f32": [], "int8": []}
        for _ in range(self.rounds):
            decode = _rate(piece("decode", self.photos, 1236))
            for precision, found in rounds.items():
                found.append(self._against_limit("openvino", decode, model, precision))
        rows = {name: _median(found) for name, found in rounds.items()}
        rows["int8"]["times f32, whole"] = rows["int8"]["whole wall"] / rows["f32"]["whole wall"]
        show("int8 against its limit (wanted: steady 0.90, whole 0.80 of it)", rows)
        return {"median": rows, "rounds": rounds}

    def _against_limit(
        self, engine: str, decode: dict, model: str = "", precision: str = "f32"
    ) -> dict:
        photos, model = self.photos, model or self.model
        if engine == "tfx-bsl":
            photos = make_archive(self.folder / "photos-1024", 1024)
        infer = _rate(piece("infer", photos, model, engine, 0, precision, 1024))
        flags = (f"--engine={engine}", f"--precision={precision}")
        done = job(photos, self._fresh(), model, *flags)
        count, stages = done["images"], done["stages_cpu"]
        idle = done["idle"] * done["wall"] * CORES  # all of it booked on the steady part
        steady = sum(stages.values()) - stages["start"] - stages["list"]
        limit = 1 / (1 / infer["rate"] + 1 / decode["rate"])
        wall_limit = 1 / (1 / infer["wall"] + 1 / decode["wall"])
        rates = {"steady": CORES * count / (steady + idle)}
        rates["whole"] = CORES * count / (done["cpu"] + idle)
        return {
            "infer": infer["rate"],
            "limit": limit,
            **rates,
            **{f"{name}/limit": rate / limit for name, rate in rates.items()},
            "steady wall": count / done["steady"],
            "whole wall": count / done["wall"],
            "steady/limit wall": count / done["steady"] / wall_limit,
            "whole/limit wall": count / done["wall"] / wall_limit,
            "overhead": stages["overhead"] / steady,
            "peak_mb": done["peak_mb"],
            "idle cores": done["idle"],
            "cores of others": done["others"],
            **{f"cpu_s/1000 {k}": v / count * 1e3 for k, v in stages.items()},
            **{f"wall_s {k}": v for k, v in done["stages_wall"].items()},
        }

    def compare(self) -> dict:
        """The README's table: the job beside Keras, and beside Ray Data and Daft where they are."""
        models = {"int8": self._int8_model(), "": self.model}
        return compare.compare(self.folder, self.photos, models, self.rounds)

    def engines(self) -> dict:
        """All engines, TensorFlow's against its own limit."""
        return self.throughput(ENGINES)

    def start(self) -> dict:
        """Start-up: `--help`, and one image from start to exit."""
        one = make_archive(self.folder / "photos-1", 1)
        code = "from imagecensus.jobs.cli import command; command()"
        runs = {"help": [], "one image": []}
        for _ in range(max(3, self.rounds)):
            runs["help"].append(run([sys.executable, "-c", code, "--help"]))
            done = self.job(one)
            runs["one image"].append(done)
        rows = {
            "--help": {
                "wall_s": statistics.median(r.wall for r in runs["help"]),
                "cpu_s": statistics.median(r.cpu for r in runs["help"]),
            },
            "one image": {
                "wall_s": statistics.median(r["wall"] for r in runs["one image"]),
                "cpu_s": statistics.median(r["cpu"] for r in runs["one image"]),
            },
        }
        show("start to exit", rows)
        return rows

    def large(self) -> dict:
        """12-megapixel photos."""
        row = piece("large", self.model, 60)
        row["speedup"] = row["full_ms"] / row["scaled_ms"]
        show("12-megapixel JPEGs: DCT scaling against full decoding (CPU ms)", {"12 MP": row})
        return row

    def alike(self) -> dict:
        """Do rows depend on the engine or on how batches are cut?"""
        row = piece("alike", self.model)
        show("all engines on every shared image, against openvino", {"difference": row})
        return row

    def precision(self) -> dict:
        """Lower precisions of OpenVINO; int8 where nncf is installed beside it."""
        names = ["bf16"]
        if importlib.util.find_spec("nncf"):
            names.append("int8")
        else:
            print("nncf is not installed: int8 is left out", flush=True)
        rows = {name: piece("precision", self.photos, self.model, name, 1236) for name in names}
        show("precision against f32", rows)
        return rows

    def embeddings(self) -> dict:
        """What `--embeddings` costs: the job with and without, in turn."""
        few, rows = make_archive(self.folder / "photos-1024", 1024), {}
        for precision, model in self._precisions().items():
            spent = {"without": [], "with": []}
            for _ in range(self.rounds):
                for name, flags in (("without", ()), ("with", ("--embeddings",))):
                    done = job(few, self._fresh(), model, precision, *flags)
                    stages = done["stages_cpu"]
                    steady = sum(stages.values()) - stages["start"] - stages["list"]
                    figures = {"cpu_ms": steady / 1024 * 1e3, "images/s": 1024 / done["steady"]}
                    spent[name].append(figures)
            without, given = (_median(found) for found in spent.values())
            given["cost"] = given["cpu_ms"] / without["cpu_ms"] - 1
            rows |= {f"{precision} without": without, f"{precision} --embeddings": given}
        show("embeddings (after start-up)", rows)
        return rows

    def training(self) -> dict:
        """The input pipeline of training alone, without and with augmentation."""
        rows = {}
        for name, words in TRAINING.items():
            rounds = [
                _rate(piece("training_input", self.photos, 1024, *words))
                for _ in range(self.rounds)
            ]
            rows[name] = _median(rounds)
        show("input pipeline of training, batches of 32 at 224x224 (images/s)", rows)
        return rows

    def processes(self) -> dict:
        """One process of N threads against N processes of one, each with its own shard."""
        rows = {}
        few = make_archive(self.folder / "photos-1024", 1024)
        cores = CORES
        done = self.job(few)
        rows[f"1 process x {cores} threads"] = {
            "wall_s": done["wall"],
            "steady_wall_s": done["steady"],
            "cpu_s": done["cpu"],
            "peak_mb": done["peak_mb"],
        }
        code = (
            "import subprocess,sys\n"
            f"n={cores}\n"
            "c='from imagecensus.jobs.cli import command; command()'\n"
            "a=[[sys.executable,'-c',c,'classify',sys.argv[1],'--output',sys.argv[2]+str(i),"
            "'--model',sys.argv[3],'--threads=1',f'--shard={i}/{n}'] for i in range(n)]\n"
            "p=[subprocess.Popen(x) for x in a]\n"
            "sys.exit(max(x.wait() for x in p))\n"
        )
        for index in range(cores):
            shutil.rmtree(self.folder / f"shard{index}", ignore_errors=True)
        done = run([sys.executable, "-c", code, few, self.folder / "shard", self.model])
        reports = [
            json.loads((self.folder / f"shard{i}" / f"run_report-s{i}of{cores}.json").read_text())
            for i in range(cores)
        ]
        rows[f"{cores} processes x 1 thread"] = {
            "wall_s": done.wall,
            "steady_wall_s": max(r["rates"]["steady_seconds"] for r in reports),
            "cpu_s": done.cpu,
            "peak_mb": done.peak_mb * cores,
        }
        show("processes and threads, 1024 photos", rows)
        return rows

    def pinned(self) -> dict:
        """All cores, and one: the job starts as many threads as it may use."""
        few = make_archive(self.folder / "photos-1024", 1024)
        usable, rows = os.sched_getaffinity(0), {}
        for precision, model in self._precisions().items():
            for name, cores in (("all cores", usable), ("one core", {min(usable)})):
                os.sched_setaffinity(0, cores)  # children inherit it
                try:
                    done = [job(few, self._fresh(), model, precision) for _ in range(self.rounds)]
                finally:
                    os.sched_setaffinity(0, usable)
                figures = [
                    {
                        "images/s": 1024 / d["steady"],
                        "cpu_ms": d["cpu"] / 1.024,
                        "peak_mb": d["peak_mb"],
                    }
                    for d in done
                ]
                rows[f"{precision}, {name}"] = _median(figures)
        show("pinned to one core, 1,024 photos", rows)
        return rows

    def memory(self) -> dict:
        """Peak resident size at 2,000 and 20,000 images: of the largest process, and of all."""
        rows = {}
        for precision, model in self._precisions().items():
            for count in (2_000, 20_000):
                photos = make_archive(self.folder / f"photos-{count}", count)
                done = job(photos, self._fresh(), model, precision, watch=True)
                named = {key: done[key] for key in ("peak_mb", "all_mb")}
                rows[f"{precision}, {count}"] = {**named, "wall_s": done["wall"]}
        show("peak resident size", rows)
        return rows

    def load(self) -> dict:
        """50,000 small images with 2 % broken ones, against the same without; a tiny model."""
        rounds = {"whole": [], "2 % broken": []}
        for _ in range(self.rounds):
            for name, one_in in (("whole", None), ("2 % broken", load.ONE_IN)):
                photos = load.make_images(self.folder / f"small-{one_in}", load.COUNT, one_in)
                done = job(photos, self._fresh(), load.MODEL, "--no-report")
                figures = {"images": done["images"], "cpu_s": done["cpu"]}
                rounds[name].append(figures | {"peak_mb": done["peak_mb"]})
        rows = {name: _median(figures) for name, figures in rounds.items()}
        rows["2 % broken"]["of whole"] = rows["whole"]["cpu_s"] / rows["2 % broken"]["cpu_s"]
        show("load (CPU seconds start to exit, MB)", rows)
        return rows

    def scale(self) -> dict:
        """Listing, planning and resuming up to 1 M images; runs of 100 M and more are simulated."""
        counts = {f"{count:,} images": count for count in (10_000, 100_000, 1_000_000)}
        rows = {
            name: run(
                [sys.executable, pathlib.Path(scale.__file__), count, self.folder / "scale"]
            ).said
            for name, count in counts.items()
        }
        show("references alone (seconds, MB)", rows)
        name, count = list(counts.items())[-1]
        few = make_archive(self.folder / "photos-1024", 1024)
        costs = simulate.measured(rows[name], count, self.job(few))
        simulated = {"measured here, s": dataclasses.asdict(costs), **simulate.table(costs)}
        show(
            "SIMULATED runs: hours, losses, units begun twice (tests/bench/simulate.py)", simulated
        )
        return {**rows, "simulated": simulated}

    def dedup(self) -> dict:
        """New images against a plan of 40 M, which takes 3 GB of disk."""
        rows = {}
        for new in (1500, DEDUP_KNOWN):
            words = [sys.executable, pathlib.Path(dedup.__file__), DEDUP_KNOWN, new, self.folder]
            rows[f"{new:,} new"] = run(words).said or run(words).said
        show(f"new images against {DEDUP_KNOWN:,} known ones (seconds, MB)", rows)
        return rows

    def rerun(self) -> dict:
        """1,000 new images into a table of 4 M rows, and into one of their own."""
        run([sys.executable, pathlib.Path(rerun.__file__), TABLE_ROWS, self.folder])
        rounds = [rerun.figures(TABLE_ROWS, self.folder) for _ in range(self.rounds)]
        rows = {name: _median([found[name] for found in rounds]) for name in rounds[0]}
        rows["the table's part"] = {
            key: rows["in the table"][key] - rows["alone"][key] for key in rows["alone"]
        }
        show(f"{rerun.NEW:,} new images into a table of {TABLE_ROWS:,} rows", rows)
        asked = run([sys.executable, bucket_rerun.__file__, self.folder]).said
        if not asked:
            print("no emulator of a bucket (make bucket-emulator): the rerun there is left out")
            return rows
        rows |= {f"bucket, {files} plan files": found for files, found in asked.items()}
        cpu = rows["the table's part"]["cpu_s"] / TABLE_ROWS
        simulated = {
            f"{rows_there // 1_000_000:,} M rows": simulate.rerun_on_bucket(rows_there, asked, cpu)
            for rows_there in (100_000_000, 1_000_000_000)
        }
        show("requests of a rerun on a bucket that answers after 50 ms", asked)
        show("SIMULATED reruns there (seconds; tests/bench/simulate.py)", simulated)
        return {**rows, "simulated": simulated}

    def compact(self) -> dict:
        """Merging a table of 4 M rows."""
        run([sys.executable, pathlib.Path(rerun.__file__), TABLE_ROWS, self.folder])
        rows = {"compact": rerun.compacted(TABLE_ROWS, self.folder)}
        show(f"compact of {TABLE_ROWS:,} rows in files of {rerun.UNIT_ROWS} (seconds, MB)", rows)
        return rows

    def listing(self) -> dict:
        """A store that answers each page after 100 ms: objects/s, flat and in 32 folders."""
        rows = {}
        for folders in (0, 32):
            with cloud.server(f"{LISTED}x{folders}", 100) as (env, _):
                for kind in ("gs", "s3", "az"):
                    found = piece("listing", f"{kind}://photos/scans/", env=env)
                    rows[f"{kind}://, {folders or 'no'} folders"] = {
                        "objects/s": found["images"] / found["wall"],
                        "cpu_us": found["cpu"] / found["images"] * 1e6,
                    }
        show(f"listing of {LISTED:,} objects, 100 ms a page", rows)
        return {**rows, **self._listing_on_workers()}

    def _listing_on_workers(self) -> dict:
        """The same by so many workers as there are, all on this machine, and their files merged."""
        rows, script = {}, pathlib.Path(worker_listing.__file__)
        with cloud.server(f"{LISTED}x0", 100) as (env, _):
            for count in (1, 2, 4):
                with concurrent.futures.ThreadPoolExecutor(count) as pool:
                    words = [sys.executable, script, "list", "gs://photos/scans/", self._fresh()]
                    self._fresh().mkdir(parents=True)
                    shares = [f"{at}/{count}" for at in range(count)]
                    found = [*pool.map(functools.partial(_said, words, env), shares)]
                assert sum(one["images"] for one in found) == LISTED
                rows[f"{count} workers"] = {
                    "objects/s": LISTED / max(one["wall"] for one in found),
                    "cpu_us": sum(one["cpu"] for one in found) / LISTED * 1e6,
                    "cut_s": found[0]["cut_s"],
                }
        show(f"listing of {LISTED:,} objects by workers (--list-on-workers), all on here", rows)
        words = [sys.executable, script, "merge", MERGED, self.folder]
        run(words)
        merged = {f"{MERGED:,} objects": run(words).said}
        show("what workers listed, planned by the launcher", merged)
        return {**rows, **merged}

    def forecast(self) -> dict:
        """`imagecensus plan`, and the run that it foretold, in turn."""
        rows = {}
        for at in range(self.rounds):
            foretold = forecast.foretell(self.photos, self.model)
            rows[f"round {at + 1}"] = forecast.row(foretold, self.job(self.photos))
        show(f"forecast of {self.images} images (seconds start to exit)", rows)
        return rows

    def reads(self) -> dict:
        """What one read of 55 KB costs in each store, and in obstore alone."""
        folder = self.folder / "one-object"
        folder.mkdir(exist_ok=True)
        (folder / "55.jpg").write_bytes(os.urandom(55_000))
        found: dict[str, list] = {}
        with cloud.server(folder, 0) as (env, url):
            for _ in range(self.rounds):
                for kind in ("bare", *cloud.STORES):
                    figures = _rate(piece("reads", kind, url, 2000, env=env))
                    found.setdefault(kind, []).append({"cpu_ms": figures["cpu_ms"]})
        rows = {kind: _median(figures) for kind, figures in found.items()}
        show("reads of 55 KB, one request each (CPU ms a read)", rows)
        return rows

    def cloud(self) -> dict:
        """Reading from each store on loopback with 50 ms a request, against local disk."""
        few = make_archive(self.folder / "photos-2000", 2000)
        rows = {}
        for precision, model in (("f32", self.model), ("int8", self._int8_model())):
            if model:
                rows |= self._clouds(few, model, precision)
        show("reads from stores, 2,000 photos", rows)
        return rows

    def _clouds(self, photos: pathlib.Path, model: str, precision: str) -> dict:
        rounds: dict[str, list] = {}
        flags = (f"--precision={precision}", "--no-report")
        for _ in range(self.rounds):
            local = cloud.row(job(photos, self._fresh(), model, *flags))
            rounds.setdefault(f"{precision} local disk", []).append(local)
            for kind, delay in (("gs", 0), *((kind, 50) for kind in cloud.STORES)):
                with cloud.server(photos, delay) as (env, url):
                    source, *more = cloud.inputs(kind, photos, url, self.folder)
                    done = job(source, self._fresh(), model, *flags, *more, env=env)
                found = cloud.row(done)
                found["of local disk"] = found["images/s of ours"] / local["images/s of ours"]
                rounds.setdefault(f"{precision} {kind} + {delay} ms", []).append(found)
        return {name: _median(figures) for name, figures in rounds.items()}


def machine() -> dict:
    """What the figures were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _said(words: list, env: dict, last: str) -> dict:
    return run([*words, last], env).said


def show(title: str, rows: dict) -> None:
    """Prints a table: one line per row name and its figures."""
    print(f"\n{title}")
    for name, figures in rows.items():
        told = "  ".join(f"{k} {v:,.4g}" for k, v in figures.items())
        print(f"  {name:<24} {told}", flush=True)


def _rate(found: dict) -> dict:
    return {
        "rate": CORES * found["images"] / found["core"],
        "wall": found["images"] / found["wall"],
        "cpu_ms": found["cpu"] / found["images"] * 1e3,
    }


def _median(rows: list[dict]) -> dict:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def main() -> None:
    sections = [n for n, f in vars(Bench).items() if not n.startswith("_") and n != "job"]
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(sections)}; default: all")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("bench"))
    parser.add_argument("--images", type=int, default=3072)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.folder.resolve(), options.images, options.rounds)
    path = options.folder / "bench.json"
    answer = json.loads(path.read_text()) if path.exists() else {}
    answer["machine"] = machine()
    print(answer["machine"])
    sections.remove("throughput")  # its rows are among those of `engines`
    for name in options.sections or sections:
        start = time.monotonic()
        answer[name] = getattr(bench, name)()
        answer.setdefault("seconds", {})[name] = round(time.monotonic() - start)
        path.write_text(json.dumps(answer, indent=1))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
