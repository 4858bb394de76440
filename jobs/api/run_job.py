"""Whole jobs as functions: the options of the commands as keyword arguments, results as values."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from imagecensus.jobs import cli
from imagecensus.jobs.command.options import Options, declared, unknown_flag
from imagecensus.jobs.options.classify import ClassifyOptions
from imagecensus.jobs.options.train import TrainOptions
from imagecensus.jobs.results.open_table import open_table
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.sql import quote_name
from imagecensus.model_export.contract import read_contract
from imagecensus.transforms.storage import store

if TYPE_CHECKING:
    import pyarrow as pa

Location = str | os.PathLike[str]
# Runs of one process take turns: they share its standard output and what `LOCAL_RUN` holds.
_TURN = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyResult:
    """What a run of `classify` left.

    Attributes:
      output: the dataset's folder or prefix.
      ok: False where the totals do not balance, or more images failed than `max_failure_rate`.
      totals: the counts of the run and of the dataset, as in `run_report.json`: `listed`,
        `added`, `images`, `rows`, `predicted`, `failed`, `pending`, `balanced` and others.
      report: all of `run_report.json`; empty, as are the totals, where the run wrote none: a dry
        run, or a job that was left running.
      summary: the lines that the command prints at its end.
    """

    output: str
    ok: bool
    totals: dict[str, Any]
    report: dict[str, Any]
    summary: str

    def table(self, columns: Iterable[str] | None = None) -> pa.Table:
        """The predictions in memory, one row per image.

        Args:
          columns: names of the columns wanted; None for all.

        Raises:
          UserError: the table cannot be read, or has no such column.
        """
        with open_table(self.output) as table:
            wanted = table.columns if columns is None else _several(columns)
            known = {name.lower() for name in table.columns}
            unknown = [name for name in wanted if name.lower() not in known]
            if unknown:
                has = ", ".join(table.columns)
                raise UserError(
                    f"{self.output}: the table has no column {unknown[0]}; it has {has}"
                )
            names = ", ".join(map(quote_name, wanted))
            return table.connection.sql(f"SELECT {names} FROM predictions").to_arrow_table()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What `train` left.

    Attributes:
      model: the model folder, for `classify(..., model=...)` and `Predictor`.
      contract: what the model promises: labels, preprocessing, digest.
      summary: the lines that the command prints at its end.
    """

    model: str
    contract: Any
    summary: str


def classify(
    inputs: Location | Iterable[Location],
    *,
    output: Location,
    beam_options: Iterable[str] = (),
    **options: Any,
) -> ClassifyResult:
    """Classifies images into a Parquet table, as `imagecensus classify` does; resumes if rerun.

    Args:
      inputs: folders, files, globs, archives, lists of images or bucket prefixes; one or many.
      output: folder or bucket prefix of the dataset.
      beam_options: flags for Apache Beam, such as `--runner=FlinkRunner`.
      options: the command's flags with underscores: `top_k=3`, `retry_failed=True`.

    Raises:
      UserError: the request cannot be carried out as given; nothing was classified.
      KeyboardInterrupt: interrupted; the same call resumes.
    """
    words = [_positional(os.fspath(location)) for location in _several(inputs)]
    words += _flags(ClassifyOptions, "classify", {"output": os.fspath(output), **options})
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with _captured() as lines:
        code = cli.run("classify", [*words, *_several(beam_options)])
    if code == 130:
        raise KeyboardInterrupt("interrupted; the same call resumes")
    report = _read_run_report(os.fspath(output), began)
    return ClassifyResult(
        output=os.fspath(output),
        ok=code == 0,
        totals=report.get("totals", {}),
        report=report,
        summary=lines.getvalue(),
    )


def train(data: Location, *, output: Location, **options: Any) -> TrainResult:
    """Trains a classifier on labelled images and exports it, as `imagecensus train` does.

    Args:
      data: a folder of class folders, a list of labelled images, or `tfds:NAME`.
      output: the model folder to write.
      options: the command's flags with underscores: `image_size=160`, `augment="flip"`.

    Raises:
      UserError: the data or an option cannot be used; no model was written.
    """
    words = [_positional(os.fspath(data))]
    words += _flags(TrainOptions, "train", {"output": os.fspath(output), **options})
    with _captured() as lines:
        cli.run("train", words)
    model = os.fspath(output)
    return TrainResult(model=model, contract=read_contract(model), summary=lines.getvalue())


def _flags(cls: type[Options], command: str, options: dict[str, Any]) -> list[str]:
    """Keyword arguments as the command's flags; a name that it lacks is refused."""
    fields = {f.name: f for f in declared(cls) if not f.metadata.get("positional")}
    words = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if name not in fields:
            known = ["--" + known.replace("_", "-") for known in fields]
            raise UserError(unknown_flag(flag, known, f"imagecensus {command}"))
        if fields[name].default is False:
            words += [flag] if value else []
        elif isinstance(value, list | tuple):
            repeated = fields[name].metadata.get("action") == "append"
            texts = [os.fspath(one) if isinstance(one, os.PathLike) else str(one) for one in value]
            words += [f"{flag}={one}" for one in texts] if repeated else [flag, *texts]
        elif value is not None:
            words.append(f"{flag}={os.fspath(value) if isinstance(value, os.PathLike) else value}")
    return words


def _several(given: Any) -> list[Any]:
    """A list of what may be given alone."""
    return [given] if isinstance(given, str | os.PathLike) else list(given)


def _positional(location: str) -> str:
    """A location that begins with a dash is no flag."""
    return os.path.join(os.curdir, location) if location.startswith("-") else location


def _read_run_report(output: str, began: str) -> dict[str, Any]:
    """`run_report.json`; empty where the run since `began` wrote none, as a dry run does."""
    location = store.join(output, "run_report.json")
    if not store.exists(location):
        return {}
    report: dict[str, Any] = json.loads(store.read(location))
    return report if report.get("started", "") >= began else {}


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What the command prints for people is part of the result, not of the caller's output."""
    lines = io.StringIO()
    with _TURN, contextlib.redirect_stdout(lines):
        yield lines
