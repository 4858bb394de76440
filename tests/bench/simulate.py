"""What a run over 100 million or a billion images would take on each runner: SIMULATED.

Nothing here ran at that size. What a unit, a listed image and a start cost is measured on this
machine (`Costs`); how machines differ, die and come back is assumed (`Fleet`); and how each runner
hands out units and goes on after a loss is a model of what was observed of it:

  in-process, Prism  one machine, which does not die
  shards             `--shard=I/N` on N machines; one that dies begins its shard anew where it was
  Flink              each slot is dealt its units at the start, in groups, and a lost machine starts
                     the whole job anew (observed): all are dealt alike again, and units whose part
                     is there are skipped
  Flink, waves       eight bundles a slot, one after the other (`BATCH_FORCED`)
  Dataflow           workers take what is next; only what a lost worker had begun is redone
                     (documented, not observed)

A rerun on a bucket (`rerun_on_bucket`) is counted: the requests that one makes against tables of
two sizes are measured, and so is what a row of the table costs the launcher.
"""

from __future__ import annotations

import dataclasses
import heapq
import statistics

import numpy as np

from imagecensus.transforms.begin_units import GROUPS, UNITS_A_GROUP
from imagecensus.transforms.dataset.work_plan import UNITS_PER_FILE

UNIT = 512
WAVES = 8
IN_FLIGHT = 2  # units that a worker has begun and not written: one in the model, one read ahead
DAY = 86_400.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """Measured, in seconds.

    Attributes:
      image: of one core, to read, decode, classify and write an image.
      planned: of the launcher, to list an image and put it into the plan.
      known: of the launcher, to list one that is in the plan, and to check its row.
      start: of a worker, until its model is loaded.
    """

    image: float
    planned: float
    known: float
    start: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """Assumed.

    Attributes:
      machines: with a worker each.
      cores: of each.
      days: mean time between the losses of one machine; 2 for spot machines.
      spread: of the logarithm of the machines' speeds.
      replaced: seconds until another machine stands for a lost one.
      noticed: seconds until Flink misses a machine (heartbeat.timeout, and the restart's delay).
      attempts: restarts until Flink gives the job up, and the launcher is started again.
      skipped: seconds of a worker to see that a unit has its part: a request to a bucket.
      page: seconds of a request that lists 1,000 objects.
      listers: such requests at a time.
    """

    machines: int
    cores: int = 4
    days: float = 30.0
    spread: float = 0.1
    replaced: float = 180.0
    noticed: float = 60.0
    attempts: int = 1000  # of docs/deploy/kubernetes/flink.yaml
    skipped: float = 0.05
    page: float = 0.1
    listers: int = 8


@dataclasses.dataclass
class Run:
    """One simulated run."""

    units: int
    seconds: float = 0.0
    begun: int = 0
    losses: int = 0
    reruns: int = 0


class Simulation:
    """Runs over so many images with these costs on this fleet."""

    def __init__(self, images: int, costs: Costs, fleet: Fleet, seed: int = 0):
        self.units, self._images = -(-images // UNIT), images
        self._costs, self._fleet = costs, fleet
        self._rng = np.random.default_rng(seed)

    def in_process(self) -> Run:
        work = self._images * self._costs.image / self._fleet.cores
        seconds = self._launch(self._costs.planned) + self._costs.start + work
        return Run(self.units, seconds, self.units)

    def shards(self) -> Run:
        """Each machine lists and plans everything, and does its share."""
        run = Run(self.units, begun=self.units)
        begin = self._launch(self._costs.planned) + self._costs.start
        again = self._launch(self._costs.known) + self._costs.start + self._fleet.replaced
        for speed in map(float, self._speeds()):
            clock, left = begin, self.units / self._fleet.machines * UNIT / speed
            while (lives := self._rng.exponential(self._fleet.days * DAY)) < left:
                clock, left = clock + lives + again, left - lives
                run.losses += 1
                run.begun += IN_FLIGHT
            run.seconds = max(run.seconds, clock + left)
        return run

    def flink(self, waves: int = 1) -> Run:
        """`waves`: bundles for each slot; with one, its share is dealt to it at the start."""
        fleet, run = self._fleet, Run(self.units)
        run.seconds = self._launch(self._costs.planned)
        dealt = self._deal(fleet.machines * waves)
        left, attempts, speeds = dealt.copy(), fleet.attempts, self._speeds()
        while True:
            bundles = self._bundles(dealt, left, speeds)
            lost = float(self._rng.exponential(fleet.days * DAY / fleet.machines))
            if lost > max(end for _, end in bundles):
                run.begun += int(left.sum())
                run.seconds += max(end for _, end in bundles)
                return run
            for number, (begin, end) in enumerate(bundles):
                share = min(max((lost - begin) / (end - begin), 0.0), 1.0)
                done = int(left[number] * share)
                run.begun += done + (IN_FLIGHT if 0 < share < 1 else 0)
                left[number] -= done
            run.losses += 1
            run.seconds += lost + max(fleet.noticed, fleet.replaced)
            speeds[self._rng.integers(fleet.machines)] = self._speeds()[0]
            attempts -= 1
            if attempts < 0:
                run.reruns, attempts = run.reruns + 1, fleet.attempts
                run.seconds += self._launch(self._costs.known)

    def _deal(self, bundles: int) -> np.ndarray:
        """int64 [bundles]: units of each.

        Plan files go to the slots by a hash. Each cuts its files into groups of units and deals
        these to all in turn, beginning with the one of its own number (read in Flink's source).
        """
        size = min(UNITS_A_GROUP, max(1, self.units // GROUPS))
        files = -(-self.units // UNITS_PER_FILE)
        held = self._rng.multinomial(files, np.full(bundles, 1 / bundles))
        rounds, rest = np.divmod(held * -(-UNITS_PER_FILE // size), bundles)
        changes, own = np.zeros(2 * bundles + 1), np.arange(bundles)
        changes[:bundles] += 1
        np.add.at(changes, own + rest, -1)
        groups = rounds.sum() + np.cumsum(changes[:-1]).reshape(2, bundles).sum(axis=0)
        ends = np.round(np.cumsum(groups / groups.sum()) * self.units)
        return np.diff(ends, prepend=0).astype(np.int64)

    def _bundles(
        self, dealt: np.ndarray, left: np.ndarray, speeds: np.ndarray
    ) -> list[tuple[float, float]]:
        """(begin, end) of each bundle; a slot takes the next when it has none."""
        free = [(0.0, slot) for slot in range(self._fleet.machines)]
        found = []
        for units, skipped in zip(left.tolist(), (dealt - left).tolist(), strict=True):
            begin, slot = heapq.heappop(free)
            begin += self._costs.start  # workers start anew for each bundle (observed)
            end = begin + units * UNIT / float(speeds[slot]) + skipped * self._fleet.skipped
            found.append((begin, max(end, begin + 1e-9)))
            heapq.heappush(free, (end, slot))
        return found

    def dataflow(self) -> Run:
        """Workers that take what is next: what there is of speed is used to the last unit."""
        fleet, run, speeds = self._fleet, Run(self.units), self._speeds()
        lives = fleet.days * DAY
        speed = float(speeds.sum()) * lives / (lives + fleet.replaced + self._costs.start)
        work = self.units * UNIT / speed
        run.losses = int(self._rng.poisson(work * fleet.machines / lives))
        run.begun = self.units + run.losses * IN_FLIGHT
        begin = self._launch(self._costs.planned) + fleet.replaced + self._costs.start
        run.seconds = begin + run.begun * UNIT / speed
        run.seconds += UNITS_A_GROUP * UNIT / float(speeds.min())
        return run

    def _launch(self, an_image: float) -> float:
        """Seconds of the launcher before the first unit."""
        pages = self._images / 1000 * self._fleet.page / self._fleet.listers
        return max(pages, self._images * an_image)

    def _speeds(self) -> np.ndarray:
        """float64 [machines]: images/s of each; their mean is what was measured."""
        spread = self._fleet.spread
        usual = self._fleet.cores / self._costs.image
        return usual * self._rng.lognormal(-(spread**2) / 2, spread, self._fleet.machines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bucket:
    """Assumed.

    Attributes:
      request: seconds of each.
      readers: of the plan's indexes at a time.
      rate: bytes/s of all of them together.
      indexed: bytes of the indexes for each row.
    """

    request: float = 0.05
    readers: int = 8
    rate: float = 100e6
    indexed: int = 16


def rerun_on_bucket(
    rows: int, asked: dict[str, dict[str, float]], cpu: float, bucket: Bucket = Bucket()
) -> dict[str, float]:
    """Seconds until new images are rows of a table of so many: SIMULATED.

    Args:
      rows: of the table.
      asked: of `bucket_rerun.py`: seconds and requests, by plan files of the table.
      cpu: seconds of the launcher for each row of the table.
    """
    (few, less), (many, more) = sorted((int(files), found) for files, found in asked.items())
    parts = rows / UNIT
    files = parts / (less["parts"] // few)
    listings = (more["listings"] - less["listings"]) / (more["parts"] - less["parts"]) * parts
    reads = (more["plan"] - less["plan"]) / (many - few) * files
    found = {
        "the new images": less["wall_s"],
        "names of parts": listings * bucket.request,  # one after the other
        "plan": reads * bucket.request / bucket.readers + rows * bucket.indexed / bucket.rate,
        "launcher's CPU": rows * cpu,
    }
    return {"seconds": sum(found.values()), **found, "requests": less["all"] + listings + reads}


_ROUNDS = 25
_ONE = Fleet(machines=1, cores=64)


def measured(references: dict[str, float], count: int, done: dict) -> Costs:
    """The costs, from the sections' figures.

    Args:
      references: of `scale.py` over `count` images.
      done: of a whole run, from `measure.job`.
    """
    steady = sum(done["stages_cpu"].values()) - sum(
        done["stages_cpu"][k] for k in ("start", "list")
    )
    return Costs(
        image=steady / done["images"],
        planned=references["list+plan cpu_s"] / count,
        known=references["resume cpu_s"] / count,
        start=done["stages_wall"]["start"],
    )


def table(costs: Costs) -> dict[str, dict[str, float]]:
    """Rows of simulated runs: hours, and units begun beyond those that there are."""
    rows = {}
    for images, machines in ((100_000_000, 100), (1_000_000_000, 500)):
        size = f"{images // 1_000_000:,} M"
        one = Simulation(images, costs, _ONE).in_process()
        rows[f"{size}, in-process or Prism, {_ONE.cores} cores"] = _row([one])
        for kind, days in (("", 30.0), ("spot ", 2.0)):
            fleet = Fleet(machines=machines, days=days)
            for name, run in (
                ("shards", Simulation.shards),
                ("Flink", Simulation.flink),
                ("Flink in waves", lambda one: one.flink(WAVES)),
                ("Dataflow", Simulation.dataflow),
            ):
                runs = [run(Simulation(images, costs, fleet, seed)) for seed in range(_ROUNDS)]
                rows[f"{size}, {machines} {kind}machines, {name}"] = _row(runs)
    return rows


def _row(runs: list[Run]) -> dict[str, float]:
    hours = [run.seconds / 3600 for run in runs]
    return {
        "hours": statistics.median(hours),
        "at worst": max(hours),
        "losses": statistics.mean(run.losses for run in runs),
        "reruns": statistics.mean(run.reruns for run in runs),
        "repeated %": 100 * statistics.mean(run.begun / run.units - 1 for run in runs),
    }
