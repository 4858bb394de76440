"""Labels that the user corrected: a CSV beside the table, which `train` takes as a manifest.

The table itself is never changed: it says what the model said.
"""

from __future__ import annotations

import csv
import io
import threading
import time

from imagecensus.jobs.results.open_table import as_csv, read_bytes, write_bytes
from imagecensus.model_export.common.errors import UserError

CORRECTIONS_FILE = "corrections.csv"
COLUMNS = ("uri", "label", "predicted", "score", "corrected_at")


class Corrections:
    """The corrections of one output folder, written whole after each change."""

    def __init__(self, output: str):
        """Raises UserError: there is a file, and it holds something else."""
        self._output = output
        self._lock = threading.Lock()
        self._rows: dict[str, dict[str, str]] = {}
        content = read_bytes(output, CORRECTIONS_FILE)
        if content is not None:
            reader = csv.DictReader(io.StringIO(content.decode("utf-8", "replace"), newline=""))
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise UserError(
                    f"{output}/{CORRECTIONS_FILE}: its columns are not {', '.join(COLUMNS)};"
                    " rename that file"
                )
            self._rows = {row["uri"]: row for row in reader}

    def __len__(self) -> int:
        return len(self._rows)

    def label_of(self, uri: str) -> str | None:
        """The corrected label, or None."""
        row = self._rows.get(uri)
        return row["label"] if row else None

    def uris(self) -> list[str]:
        return list(self._rows)

    def set(self, uri: str, label: str | None, predicted: str | None, score: float | None) -> None:
        """Notes what an image really shows; `label` None takes a correction back."""
        with self._lock:
            rows = dict(self._rows)
            rows.pop(uri, None)
            if label is not None:
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                values = (uri, label, predicted or "", "" if score is None else str(score), now)
                rows[uri] = dict(zip(COLUMNS, values, strict=True))
            write_bytes(self._output, CORRECTIONS_FILE, as_csv(COLUMNS, rows.values()))
            self._rows = rows

    def to_csv(self) -> bytes:
        return as_csv(COLUMNS, self._rows.values())
