"""`imagecensus table`: a finished table as CSV or JSON Lines, for tools that read no Parquet."""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("table")

import signal

from imagecensus.jobs.command import process
from imagecensus.jobs.options.table import TableOptions
from imagecensus.jobs.results.open_table import Table, open_table
from imagecensus.model_export.common.sql import quote_name
from imagecensus.transforms.storage import store

FORMATS = {"csv": "FORMAT csv, HEADER true", "jsonl": "FORMAT json"}


def main(options: TableOptions) -> int:
    if options.to != "-":
        with store.atomic_path(options.to) as path:
            export_table(options.output, path, options.format, options.embeddings)
        return 0
    if process.own_process:
        # A reader that has seen enough (`| head`) ends this process, as it ends other tools. In a
        # process of somebody else, any later connection that breaks would end it.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    export_table(options.output, "/dev/stdout", options.format, options.embeddings)
    return 0


def export_table(output: str, path: str, format: str, embeddings: bool = False) -> None:
    """Writes all rows, in order of uri, into a local file.

    Raises:
      UserError: no table there.
    """
    with open_table(output) as table:
        columns = ", ".join(_columns(table, format, embeddings))
        table.connection.execute(
            f"COPY (SELECT {columns} FROM predictions ORDER BY uri) TO ? ({FORMATS[format]})",
            [path],
        )


def _columns(table: Table, format: str, embeddings: bool) -> list[str]:
    """Expressions for the columns, in the table's order."""
    found = []
    types = table.query("SELECT column_name, column_type FROM (DESCRIBE predictions)")
    for name, kind in types:
        quoted = quote_name(name)
        if name == "embedding" and not embeddings:
            continue
        nested = format == "csv" and (kind.startswith(("STRUCT", "MAP")) or kind.endswith("]"))
        found.append(f"to_json({quoted}) AS {quoted}" if nested else quoted)
    return found
