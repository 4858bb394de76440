"""Logs of a job's process: a line for people, or with `--log-json` one JSON object for machines."""

from __future__ import annotations

import json
import logging
import sys
import time

from imagecensus.model_export.common.redact import redact

PROGRESS = "imagecensus.progress"  # the logger of signs of life: people see them, too


def is_json() -> bool:
    """Whether the log is for machines."""
    return any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers)


def configure(debug: bool = False, as_json: bool = False) -> None:
    """Sends logs to standard error, free of secrets.

    People get warnings and signs of life of this package and errors of others; `as_json` adds this
    package's notes (slow images, stages, totals) and the warnings of others; `debug` everything.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Line("%(levelname)s:%(name)s:%(message)s"))
    level = logging.INFO if debug else logging.WARNING if as_json else logging.ERROR
    logging.basicConfig(level=level, handlers=[handler])
    own = logging.INFO if debug or as_json else logging.WARNING
    logging.getLogger("imagecensus").setLevel(own)
    logging.getLogger(PROGRESS).setLevel(logging.INFO)
    if not debug:  # Beam logs the traceback of what the job says in a sentence
        logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
        # Warns in each run that there is no MongoDB.
        logging.getLogger("apache_beam.io.mongodbio").setLevel(logging.ERROR)


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if record.name == PROGRESS:
            return redact(f"imagecensus: {record.getMessage()}")
        return redact(super().format(record))


class _Json(logging.Formatter):
    """time (UTC), level, logger, message, then the record's own fields (`extra={"fields": …}`)."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        clean = {k: redact(v) if isinstance(v, str) else v for k, v in said.items()}
        return json.dumps(clean, default=str)
