"""The job beside what else one would write: the README's table, measured in turn in one run.

Every way is a process of its own over the same photos with the same weights, and leaves a Parquet
table. A rate is given twice: start to exit of that process, and from the loaded model to the
written table.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import statistics
import sys

import numpy as np
import pyarrow.parquet as pq
from measure import ROOT, job, run

CORES = os.cpu_count()
PEERS = pathlib.Path(__file__).with_name("peers.py")
BASIS = "keras"
REFERENCE = "openvino"  # whose labels the others are compared with


@dataclasses.dataclass(frozen=True)
class Way:
    """One way from photos to a table.

    Attributes:
      key: in bench.json; of a peer, the function of peers.py.
      text: in the README's table.
      needs: the package without which it is left out.
    """

    key: str
    text: str
    needs: str = ""
    flags: tuple[str, ...] = ()


OURS = (
    Way("int8", "`imagecensus classify`, int8", "nncf", ("--precision=int8",)),
    Way("openvino", "`imagecensus classify`, float32", "", ("--precision=f32",)),
    Way(
        "tensorflow",
        "`imagecensus classify --engine tensorflow`",
        "",
        ("--engine=tensorflow", "--precision=f32"),
    ),
)
OTHERS = (
    Way("keras", "Keras `image_dataset_from_directory` + `predict`"),
    Way("daft", "Daft {version}, SavedModel in a UDF", "daft"),
    Way("ray", "Ray Data {version}, SavedModel in `map_batches`", "ray"),
)


def compare(
    folder: pathlib.Path, photos: pathlib.Path, models: dict[str, str], rounds: int
) -> dict:
    """Runs every way `rounds` times, in turn; prints tables; returns what bench.json holds.

    Args:
      folder: for the outputs.
      photos: the folder of photos.
      models: the model folder of a way by its key, and of all others under "".
    """
    count = len(os.listdir(photos))
    ways = [way for way in OURS + OTHERS if _is_here(way)]
    measured = {way.key: [] for way in ways}
    for _ in range(rounds):
        answers = {}
        for way in ways:
            output = folder / f"compare-{way.key}"
            shutil.rmtree(output, ignore_errors=True)
            found = _measure(way, photos, models.get(way.key, models[""]), output)
            answers[way.key] = _answers(output)
            measured[way.key].append(found)
        for way in ways:
            same = _agreement(answers[way.key], answers[REFERENCE])
            measured[way.key][-1]["same label"] = same
    median = {key: _median(rows) for key, rows in measured.items()}
    for kind in ("wall", "core"):
        print(f"\n{_CAPTIONS[kind]}\n\n{markdown(ways, median, kind)}", flush=True)
    _print_times(median)
    return {
        "photos": {"count": count, "mean_kb": _mean_kb(photos)},
        "median": median,
        "rounds": measured,
        "versions": _versions(),
    }


_CAPTIONS = {
    "wall": "In wall clock, photos a second: for a machine that does nothing else.",
    "core": "In core time (used and left idle), photos a second: where others work too.",
}


def markdown(ways: list[Way], median: dict, kind: str) -> str:
    """The README's table. `kind`: "wall" or "core"."""
    basis = median[BASIS]
    lines = ["| | after start-up | start to exit | against Keras |", "|---|---|---|---|"]
    for way in ways:
        row = median[way.key]
        rates = [row[f"steady {kind}"], row[f"whole {kind}"]]
        of_basis = [basis[f"steady {kind}"], basis[f"whole {kind}"]]
        ratios = [r and b and r / b for r, b in zip(rates, of_basis, strict=True)]
        cells = ["–" if rate is None else f"{rate:.0f}" for rate in rates]
        cells.append("; ".join("–" if ratio is None else f"{ratio:.1f}" for ratio in ratios))
        if way.key == BASIS:
            cells[-1] = "1"
        text = way.text.format(version=_version(way.needs))
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _print_times(median: dict) -> None:
    """How many times as fast int8 is, start to exit and after start-up."""
    if "int8" not in median:
        return
    print(f"\nint8 in wall clock; labels as float32's: {median['int8']['same label']:.4f}")
    for key, row in median.items():
        if key != "int8":
            whole, steady = (median["int8"][n] / row[n] for n in ("whole wall", "steady wall"))
            print(f"  times {key:<12} {whole:.2f} start to exit, {steady:.2f} after start-up")


def _measure(way: Way, photos: pathlib.Path, model: str, output: pathlib.Path) -> dict:
    if way in OURS:
        done = job(photos, output, model, *way.flags)
        count, idle = done["images"], done["idle"] * done["wall"] * CORES
        stages = done["stages_cpu"]
        # All that was left idle is booked on the steady part.
        steady_core = sum(stages.values()) - stages["start"] - stages["list"] + idle
        return _rates(count, done["wall"], done["cpu"] + idle, done["steady"], steady_core)
    done = run([_python(way.needs), PEERS, way.key, photos, model, output])
    idle, said = done.idle * done.wall * CORES, done.said
    count = len(os.listdir(photos))
    if said["images"] != count:
        raise RuntimeError(f"{way.key}: {said['images']} rows for {count} photos")
    return _rates(count, done.wall, done.cpu + idle, said["steady"], said.get("steady_core"))


def _rates(count: int, wall: float, core: float, steady: float, steady_core: float | None) -> dict:
    return {
        "images": count,
        "whole wall": count / wall,
        "whole core": CORES * count / core,
        "steady wall": count / steady,
        "steady core": steady_core and CORES * count / steady_core,
    }


def _answers(output: pathlib.Path) -> dict[str, int]:
    """Name of the photo → class, of a table of ours or theirs."""
    ours = output / "predictions"
    table = pq.read_table(ours if ours.exists() else output).to_pydict()
    names = table["uri"] if ours.exists() else table["path"]
    return {name.rpartition("/")[2]: c for name, c in zip(names, table["class_id"], strict=True)}


def _agreement(one: dict[str, int], other: dict[str, int]) -> float:
    return float(np.mean([other[name] == class_id for name, class_id in one.items()]))


def _median(rows: list[dict]) -> dict:
    return {
        key: None if rows[0][key] is None else statistics.median(row[key] for row in rows)
        for key in rows[0]
    }


def _is_here(way: Way) -> bool:
    if not way.needs or _version(way.needs):
        return True
    print(f"{way.needs} is not installed: left out (make peers installs Ray and Daft)", flush=True)
    return False


def _python(package: str) -> str:
    """The interpreter that has a package: this one, or that of `make peers`."""
    beside = ROOT / ".venv-peers" / "bin" / "python"
    here = not package or importlib.util.find_spec(package)
    return sys.executable if here or not beside.exists() else str(beside)


def _mean_kb(photos: pathlib.Path) -> float:
    return statistics.mean(entry.stat().st_size for entry in os.scandir(photos)) / 1e3


def _versions() -> dict:
    packages = ("openvino", "tensorflow", "keras", "ray", "daft", "pillow", "pyarrow")
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    """Here, or in the environment of `make peers`; None: nowhere."""
    if not package:
        return None
    places = [*sys.path, *map(str, ROOT.glob(".venv-peers/lib/python*/site-packages"))]
    found = next(iter(importlib.metadata.distributions(name=package, path=places)), None)
    return found and found.version
