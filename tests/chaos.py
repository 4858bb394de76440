"""The crash matrix: the job under every fault at every point, then rerun, then compared.

    python tests/chaos.py [--quick] [--part I/N] [--table FILE]

Each case runs `classify` in a process of its own (forked from this one, which has imported
everything, so that a case takes a second), holds it at a point of `fault_injection.POINTS`, does
harm, lets it go on, undoes what a user would undo (free the disk, put the folder back), and runs
the same command again. Then: the same rows as an uninterrupted run, none lost, none twice; totals
balanced; nothing temporary left; and never a traceback on the way.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time

sys.path[:0] = [str(pathlib.Path(__file__).parents[1]), str(pathlib.Path(__file__).parent)]

IMAGES = 200
UNIT_IMAGES = 25
PATIENCE = 300  # seconds until a run counts as hanging, on a machine that others use, too

# point: how often a run of 8 units reaches it; a case holds it at the first and the middle time
REPEATED = {
    "unit.begun": 8, "read": IMAGES, "decode": IMAGES, "infer": 8,
    "part.partial": 8, "part.synced": 8, "part.renamed": 8,
}  # fmt: skip
OURS = ("predictions/part-", "_imagecensus/plan-", "_imagecensus/ledger-", "gone.csv")
KEPT = (
    "run_report.json",
    "_imagecensus/dataset.json",
    "_imagecensus/epoch.json",
    "_imagecensus/lock",
)


class Failure(AssertionError):
    """A case in which something was lost, doubled, left or told badly."""


@dataclasses.dataclass(frozen=True)
class Case:
    """`fault` is a row of the matrix's table; `point` where it strikes ("" at a random time)."""

    fault: str
    point: str = ""
    nth: int = 1
    seed: int = 0

    def __str__(self):
        return f"{self.fault} at {self.point or 'random'}:{self.nth} ({self.seed})"


def all_cases() -> list[Case]:
    from imagecensus.model_export.common.fault_injection import POINTS

    places = [(point, nth) for point in POINTS for nth in {1, (REPEATED.get(point, 1) + 1) // 2}]
    anywhere = ("kill", "term", "int", "out of memory", "disk full", "read-only", "second run")
    cases = [Case(fault, *place) for fault in anywhere for place in places]
    cases += [Case("output removed", *place) for place in places if place[0] != "lock.taken"]
    for point in ("dataset.json.synced", "plan.renamed", "read", "infer", "part.synced"):
        cases.append(Case("stopped 10 s", point, 1))
    for fault in ("source deleted", "source replaced", "source truncated"):
        for point in ("listed", "planned", "unit.begun", "read", "decode", "part.renamed"):
            cases.append(Case(fault, point, 1, len(cases)))
    for seed in range(8):
        cases.append(Case("clock moved", "", 1, seed))
    for point in ("lock.taken", "listed", "planned", "read", "infer", "part.synced"):
        cases += [Case("clock moved for all", point, 1, seed) for seed in (2, 5)]
    for seed in range(40):
        cases.append(Case("kill", "", 1, seed))
    for fault in ("part flipped", "part cut", "part emptied", "part deleted", "part swapped"):
        for seed in range(6):
            cases.append(Case(fault, "finished", 1, seed))
    for fault in ("plan flipped", "plan cut", "dataset.json cut", "run_report.json cut"):
        for seed in range(2):
            cases.append(Case(fault, "finished", 1, seed))
    return cases


def quick_cases() -> list[Case]:
    """A fixed subset: each fault once, the commit of a part from all sides."""
    return [
        Case("kill", "plan.synced"),
        Case("kill", "part.partial", 4),
        Case("kill", "part.renamed", 4),
        Case("kill", "run_report.json.partial"),
        Case("kill", "decode", 100),
        Case("term", "infer", 4),
        Case("int", "part.synced", 1),
        Case("out of memory", "unit.begun", 4),
        Case("disk full", "part.partial", 4),
        Case("read-only", "part.renamed", 1),
        Case("second run", "read", 100),
        Case("output removed", "part.synced", 4),
        Case("source deleted", "read", 1),
        Case("clock moved", "", 1, 1),
        Case("part flipped", "finished", 1, 1),
        Case("part deleted", "finished", 1, 2),
        Case("part swapped", "finished", 1, 3),
        Case("plan flipped", "finished", 1, 1),
    ]


class Chaos:
    """A workplace with images, a model and the table of an uninterrupted run."""

    def __init__(self, folder: pathlib.Path, model: str):
        from samples import make_photos

        self.folder, self.model = folder, model
        self.images = folder / "images"
        make_photos(self.images, IMAGES)
        for number, data in enumerate((b"", b"no image", b"\xff\xd8\xff\xe0broken")):
            (self.images / f"broken{number}.jpg").write_bytes(data)
        _add_other_formats(self.images)
        # Imported before forking: each case then starts at once.
        import apache_beam  # noqa: F401
        import openvino  # noqa: F401
        import pyarrow.parquet  # noqa: F401

        import imagecensus.jobs.classify
        import imagecensus.transforms.classify_images
        import imagecensus.transforms.engines.openvino_engine
        import imagecensus.transforms.write_parts  # noqa: F401

        self.lost = self.doubled = 0  # rows, in all cases so far
        self._number = 0
        run = _Run(self, self.folder / "expected")
        _expect(run.wait() == 0, f"the uninterrupted run failed: {run.said()}")
        self.expected = self._rows(run.output)

    def _rows(self, output: pathlib.Path) -> dict[str, str]:
        """uri → digest of its row. Counts those that come twice."""
        import pyarrow.parquet as pq

        table = pq.read_table(output / "predictions", use_threads=False)
        rows = {}
        for row in table.to_pylist():
            name = os.path.basename(row["uri"])
            self.doubled += name in rows
            row["uri"] = name  # some cases have copies of the images elsewhere
            row["raw_of"] = row["raw_of"] and os.path.basename(row["raw_of"])
            rows[name] = hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()
        return rows

    def run_case(self, case: Case) -> None:
        """Raises Failure; `Skip` where this machine cannot do the harm."""
        self._number += 1
        place = self.folder / f"case{self._number}"
        place.mkdir()
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, place, True)
            if case.fault == "disk full":
                _mount(place, undo)
            sources = self.images
            if case.fault.startswith("source"):
                sources = place / "images"
                shutil.copytree(self.images, sources)
                for path in self.images.iterdir():  # the listing's times are in the rows
                    info = path.stat()
                    os.utime(sources / path.name, ns=(info.st_mtime_ns, info.st_mtime_ns))
            output = place / "out"
            if case.point == "finished":
                shutil.copytree(self.folder / "expected", output)
                refusable = _damage(case, output)
            else:
                refusable = self._interrupted(case, sources, output, place)
            rerun = _Run(self, output, sources)
            code = rerun.wait()
            if refusable and code == 2:
                _expect(str(output) in rerun.said(), f"the refusal names no file: {rerun.said()}")
                return
            _expect(code == 0, f"the rerun ended with {code}: {rerun.said()}")
            self._check(output, touched=case.fault.startswith("source"))

    def _interrupted(self, case: Case, sources, output, place) -> bool:
        """Runs until the fault has struck; returns whether a rerun may refuse."""
        fault = f"{case.point}:{case.nth}:{place / 'fault'}" if case.point else None
        jump = (case.seed - 3.5) * 3e7 if case.fault.startswith("clock moved") else 0
        clock = place / "clock" if case.fault == "clock moved for all" else None
        run = _Run(self, output, sources, fault, jump, clock)
        try:
            if not case.point:
                if case.fault == "kill":
                    time.sleep(random.Random(case.seed).uniform(0, 2.5))
                    run.signal(signal.SIGKILL)
                run.wait()
                return False
            if not run.wait_until(place / "fault.reached"):
                raise Failure(f"never reached {case.point}:{case.nth}: {run.said()}")
            undo = self._harm(case, run, sources, output, place)
            (place / "fault.go").touch()
            code = run.wait()
            undo()
        finally:
            run.signal(signal.SIGKILL)
        said = run.said()
        _expect("Traceback" not in said, f"a traceback: {said}")
        _expect("This is a defect" not in said, f"no sentence: {said}")
        if case.fault in ("second run", "stopped 10 s", "clock moved for all"):
            _expect(code == 0, f"ended with {code}: {said}")
        if case.fault == "clock moved for all":
            report = json.loads((output / "run_report.json").read_text())
            _expect(report["started"][:4] != report["finished"][:4], "the clock did not move")
        return False

    def _harm(self, case: Case, run: _Run, sources, output, place):
        """Does the case's harm to a held run; returns what undoes it."""
        signals = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
        if case.fault in signals:
            run.signal(signals[case.fault])
        elif case.fault == "stopped 10 s":
            run.signal(signal.SIGSTOP)
            time.sleep(10)
            run.signal(signal.SIGCONT)
        elif case.fault == "out of memory":
            size = int(pathlib.Path(f"/proc/{run.pid}/statm").read_text().split()[0])
            limit = size * resource.getpagesize() + (1 << 20)
            resource.prlimit(run.pid, resource.RLIMIT_AS, (limit, limit))
        elif case.fault == "disk full":
            ballast = place / "ballast"
            with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
            return lambda: ballast.unlink()
        elif case.fault == "read-only":
            folders = [output, output / "predictions", output / "_imagecensus"]
            _write_protect(folders, True)
            return lambda: _write_protect(folders, False)
        elif case.fault == "clock moved for all":
            with open(place / "clock", "r+b") as file:  # in place: it is mapped
                file.write(struct.pack("q", int((case.seed - 3.5) * 3e7)))
        elif case.fault == "output removed":
            _remove(output)
        elif case.fault == "second run":
            second = _Run(self, output, sources)
            code, said = second.wait(), second.said()
            _expect(code == 2 and "another run" in said, f"the second run: {code} {said}")
        elif case.fault.startswith("source"):
            victim = sources / f"{random.Random(case.seed).randrange(IMAGES):05d}.jpg"
            if case.fault == "source deleted":
                victim.unlink()
            elif case.fault == "source replaced":
                shutil.copy(sources / "00000.jpg", victim.with_suffix(".new"))
                os.replace(victim.with_suffix(".new"), victim)
            else:
                os.truncate(victim, 300)
        return lambda: None

    def _check(self, output: pathlib.Path, touched: bool) -> None:
        doubled = self.doubled
        rows = self._rows(output)
        _expect(self.doubled == doubled, "rows that come twice")
        lost = self.expected.keys() - rows
        self.lost += len(lost)
        _expect(rows.keys() == self.expected.keys(), f"rows lost: {lost}")
        differing = [name for name, row in rows.items() if row != self.expected[name]]
        _expect(len(differing) <= (1 if touched else 0), f"rows differ: {differing}")
        totals = json.loads((output / "run_report.json").read_text())["totals"]
        _expect(totals["balanced"] and totals["rows"] == len(rows), f"totals: {totals}")
        for path in output.rglob("*"):
            name = str(path.relative_to(output))
            known = path.is_dir() and path.name in ("predictions", "_imagecensus")
            known |= name in KEPT or name.startswith(OURS)
            _expect(known, f"left behind: {name}")


def _add_other_formats(folder: pathlib.Path) -> None:
    """Files with pages, alone and in archives, a raw beside its JPEG, and what an extra reads."""
    from samples import photo

    first, *others = (photo(seed, (64, 48)) for seed in range(3))
    for name in ("scan.tif", "paper.pdf", "moving.webp"):
        first.save(folder / name, save_all=True, append_images=others)
    (folder / "00001.CR2").write_bytes(b"II\x1a\x00\x00\x00HEAPCCDR, of no camera")
    if importlib.util.find_spec("imagecodecs"):  # of the extra
        from image_files import whole

        for kind in ("JPEG XL", "HEIC", "16-bit JPEG 2000", "12-bit JPEG", "lossless JPEG",
                     "PSD", "DICOM JPEG-LS", "DNG", "DNG preview", "HDR", "TIFF LERC"):  # fmt: skip
            (folder / f"{kind}.bin").write_bytes(whole(kind, (64, 48)))
            (folder / f"{kind} cut.bin").write_bytes(whole(kind, (64, 48))[:-200])
    for name in ("more.tar", "more.tar.gz"):
        with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as tar:
            for member in ("scan.tif", "00002.jpg", "paper.pdf"):
                tar.add(folder / member, member)


class Skip(Exception):
    """This machine cannot do this harm."""


class _Run:
    """One run of the command in a process forked from this one."""

    def __init__(self, chaos: Chaos, output, sources=None, fault=None, clock_jump=0.0, clock=None):
        self.output = output
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the run
        argv = ["classify", str(sources or chaos.images), "--output", str(output)]
        argv += ["--model", chaos.model, "--unit-images", str(UNIT_IMAGES), "--no-report"]
        argv += ["--pages", "all"]
        self._code = None
        environment = _clock_from(clock, fault) if clock else None
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            os.dup2(self._log.fileno(), 1)
            os.dup2(self._log.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if environment:
                os.execve(
                    sys.executable,
                    [sys.executable, "-m", "imagecensus.jobs.cli", *argv],
                    environment,
                )
            from imagecensus.jobs import cli
            from imagecensus.model_export.common import fault_injection

            fault_injection.arm(fault)
            if clock_jump:
                _move_clock(clock_jump)
            code = cli.main(argv)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait_until(self, path: pathlib.Path) -> bool:
        """Waits for a file; False when the process ended without it."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            if path.exists():
                return True
            if self._poll(os.WNOHANG):
                return path.exists()
            time.sleep(0.005)
        return False

    def wait(self) -> int:
        """The exit code; negative for a signal."""
        limit = time.monotonic() + PATIENCE
        while not self._poll(os.WNOHANG):
            if time.monotonic() > limit:
                self.signal(signal.SIGKILL)
                raise Failure(f"hangs: {self.said()}")
            time.sleep(0.005)
        return self._code

    def _poll(self, flags) -> bool:
        if self._code is None:
            ended, status = os.waitpid(self.pid, flags)
            if ended:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def signal(self, number: int) -> None:
        if not self._poll(os.WNOHANG):
            os.kill(self.pid, number)
            if number == signal.SIGKILL:
                self._poll(0)

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read()


def _clock_from(file: pathlib.Path, fault: str) -> dict:
    """An environment in which the clock of every library is as wrong as the file says."""
    library = file.with_suffix(".so")
    source = pathlib.Path(__file__).with_name("wrong_clock.c")
    try:
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"],
            check=True, capture_output=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise Skip(f"no C compiler, or not a Linux one: {error}") from None
    file.write_bytes(bytes(8))
    return os.environ | {
        "LD_PRELOAD": str(library), "WRONG_CLOCK": str(file), "IMAGECENSUS_FAULT": fault,
        "PYTHONPATH": sys.path[0],
    }  # fmt: skip


def _move_clock(seconds: float) -> None:
    """The wall clock jumps while the run goes on: at its 20th reading."""
    real, readings = time.time, iter(range(20))
    time.time = lambda: real() + (seconds if next(readings, None) is None else 0)


def _damage(case: Case, output: pathlib.Path) -> bool:
    """Damages a file of a finished output; returns whether a rerun may refuse."""
    what, how = case.fault.split()
    chance = random.Random(case.seed)
    if what == "part":
        parts = sorted((output / "predictions").iterdir())
        victim = chance.choice(parts)
    elif what == "plan":
        victim = next((output / "_imagecensus").glob("plan-*"))
    else:
        victim = output / ("_imagecensus" if what == "dataset.json" else "") / what
    data = bytearray(victim.read_bytes())
    if how == "flipped":
        # Within the first pages, which a reader has no other reason to doubt.
        data[chance.randrange(4, len(data) // 2)] ^= 1 << chance.randrange(8)
        victim.write_bytes(data)
    elif how == "cut":
        victim.write_bytes(data[: chance.randrange(1, len(data))])
    elif how == "emptied":
        victim.write_bytes(b"")
    elif how == "deleted":
        victim.unlink()
    elif how == "swapped":
        shutil.copy(parts[(parts.index(victim) + 1) % len(parts)], victim)
    return what in ("plan", "dataset.json")


def _remove(folder: pathlib.Path) -> None:
    """Removes a folder that another process writes into at the same time."""
    for _ in range(1000):
        with contextlib.suppress(FileNotFoundError):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                continue
        return
    raise Failure(f"{folder}: is written into faster than it can be removed")


def _mount(folder: pathlib.Path, undo: contextlib.ExitStack) -> None:
    """A small file system of its own, so that its end can be reached."""
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        raise Skip("cannot mount a small disk here (needs root)")
    undo.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)


def _write_protect(folders, on: bool) -> None:
    if os.geteuid() != 0:
        for folder in folders:
            folder.chmod(0o555 if on else 0o755)
        return
    # Root may write wherever the mode says no, but not into what is immutable.
    flag = "+i" if on else "-i"
    done = subprocess.run(["chattr", flag, *map(str, folders)], capture_output=True)
    if done.returncode:
        raise Skip("cannot write-protect a folder here")


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise Failure(otherwise)


def make_model(folder: pathlib.Path) -> str:
    """Exports the tiny model in another process: TensorFlow's threads must not be forked."""
    code = "import sys; from samples import export_tiny; export_tiny(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])}
    command = [sys.executable, "-c", code, str(folder / "model")]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return str(folder / "model")


def run_cases(cases: list[Case], folder: pathlib.Path, model: str) -> dict:
    """fault → counts of its cases; prints what failed."""
    chaos = Chaos(folder, model)
    table = collections.defaultdict(collections.Counter)
    for case in cases:
        row = table[case.fault]
        row["cases"] += 1
        before = chaos.lost, chaos.doubled
        try:
            chaos.run_case(case)
        except Skip as reason:
            row["skipped"] += 1
            print(f"skipped {case}: {reason}", flush=True)
        except Failure as failure:
            row["failed"] += 1
            print(f"FAILED {case}: {failure}", flush=True)
        row["lost"] += chaos.lost - before[0]
        row["doubled"] += chaos.doubled - before[1]
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description="the crash matrix")
    parser.add_argument("--quick", action="store_true", help="the fixed subset of make test")
    parser.add_argument("--part", default="0/1", help="I/N: every Nth case from the Ith")
    parser.add_argument("--only", default="", help="faults that contain this text")
    parser.add_argument("--model", help="a model folder; without it, one is made")
    parser.add_argument("--table", help="append each fault's counts to this JSON Lines file")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    cases = quick_cases() if options.quick else all_cases()
    cases = [case for case in cases if options.only in case.fault][part::parts]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        folder = pathlib.Path(folder)
        table = run_cases(cases, folder, options.model or make_model(folder))
    columns = ("cases", "lost", "doubled", "failed", "skipped")
    total = collections.Counter()
    print(f"| fault | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for fault, row in table.items():
        print(f"| {fault} | {' | '.join(str(row[column]) for column in columns)} |")
        total.update(row)
    print(f"| all | {' | '.join(str(total[column]) for column in columns)} |")
    print(f"{time.monotonic() - start:.0f} s")
    if options.table:
        with open(options.table, "a") as file:
            file.writelines(json.dumps({"fault": f, **row}) + "\n" for f, row in table.items())
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
