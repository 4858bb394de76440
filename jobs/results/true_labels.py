"""Where the true labels of an evaluation come from."""

from __future__ import annotations

import os

import duckdb

from imagecensus.jobs.results.open_table import Table
from imagecensus.model_export.common.errors import UserError

HELP = "`parent` (the folder's name), `column:NAME` of the table, or a CSV, JSONL or Parquet file"
# A member's path starts behind its archive: photos.tar#dogs/1.jpg lies in the folder dogs.
_ARCHIVE = r"^.*\.(tar|tar\.gz|tgz|zip)#"


def join_truth(table: Table, source: str, uri_column: str, label_column: str) -> str:
    """Makes the view `judged`: `predictions` and the column `truth` (null: not known).

    Args:
      table: an open table.
      source: see HELP.
      uri_column, label_column: of the file.

    Returns:
      how rows were matched, for people: "folder name", "column NAME", "uri" or "file name".

    Raises:
      UserError: no such column or file, two truths for one image, or nothing matches.
    """
    if source == "parent":
        truth, matched = f"nullif({_component(-2)}, '')", "folder name"
    elif source.startswith("column:"):
        name = source.removeprefix("column:")
        if name not in table.columns:
            raise UserError(
                f"--labels {source}: the table has no such column; it has"
                f" {', '.join(table.columns)}"
            )
        truth, matched = f"nullif(CAST({_quote(name)} AS VARCHAR), '')", f"column {name}"
    else:
        return _join_file(table, source, uri_column, label_column)
    table.connection.execute(f"CREATE VIEW judged AS SELECT *, {truth} AS truth FROM predictions")
    return matched


def _join_file(table: Table, path: str, uri_column: str, label_column: str) -> str:
    connection = table.connection
    _read_truth(connection, path, uri_column, label_column)
    twice = connection.execute(
        "SELECT uri, min(label), max(label) FROM truth GROUP BY uri"
        " HAVING min(label) != max(label) ORDER BY uri LIMIT 1"
    ).fetchone()
    if twice:
        raise UserError(f"{path}: {twice[0]} is both {twice[1]!r} and {twice[2]!r}; keep one")
    join = (
        "CREATE OR REPLACE VIEW judged AS SELECT p.*, t.label AS truth FROM predictions p LEFT JOIN"
    )
    connection.execute(f"{join} (SELECT DISTINCT uri, label FROM truth) t ON p.uri = t.uri")
    if _matches(connection):
        return "uri"
    # Lists of labels often hold bare file names. They will do where no name occurs twice.
    connection.execute(
        f"""
        CREATE TABLE by_name AS SELECT split_part(uri, '/', -1) AS name, any_value(label) AS label
          FROM truth GROUP BY 1 HAVING count(DISTINCT label) = 1;
        CREATE TABLE unique_name AS SELECT {_component(-1)} AS name
          FROM predictions GROUP BY 1 HAVING count(*) = 1;
        {join} (SELECT * FROM by_name SEMI JOIN unique_name USING (name)) t
          ON {_component(-1)} = t.name
        """
    )
    if _matches(connection):
        return "file name"
    ours = connection.execute("SELECT min(uri) FROM predictions").fetchone()[0]
    theirs = connection.execute("SELECT min(uri) FROM truth").fetchone()[0]
    raise UserError(
        f"{path}: none of its images is in the table; its column {uri_column!r} has for example"
        f" {theirs!r}, the table {ours!r}"
    )


def _read_truth(connection, path: str, uri_column: str, label_column: str) -> None:
    """Makes the table `truth` (uri, label) of a file; relative paths start at its folder."""
    extension = os.path.splitext(path)[1].lower()
    reader = {
        ".csv": lambda: connection.read_csv(path, header=True, all_varchar=True),
        ".tsv": lambda: connection.read_csv(path, header=True, all_varchar=True, sep="\t"),
        ".jsonl": lambda: connection.read_json(path, format="newline_delimited"),
        ".parquet": lambda: connection.read_parquet(path),
    }.get(extension)
    if reader is None:
        raise UserError(f"--labels {path}: neither {HELP}")
    if not os.path.isfile(path):
        raise UserError(f"--labels {path}: no such file")
    try:
        relation = reader()
        for column in (uri_column, label_column):
            if column not in relation.columns:
                raise UserError(
                    f"{path}: has no column {column!r}, only {', '.join(relation.columns)};"
                    " name them with --uri-column and --label-column"
                )
        relation.create_view("truth_file")
        folder = os.path.dirname(os.path.abspath(path))
        connection.execute(
            f"""
            CREATE TABLE truth AS
            SELECT CASE WHEN u LIKE '/%' OR u LIKE '%://%' THEN u
                        ELSE ? || regexp_replace(u, '^(\\./)+', '') END AS uri, label
            FROM (SELECT CAST({_quote(uri_column)} AS VARCHAR) AS u,
                         CAST({_quote(label_column)} AS VARCHAR) AS label FROM truth_file)
            WHERE u != '' AND label != ''
            """,
            [folder.rstrip("/") + "/"],
        )
    except duckdb.Error as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def _matches(connection) -> bool:
    return connection.execute("SELECT count(truth) FROM judged").fetchone()[0] > 0


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _component(index: int) -> str:
    """SQL for a component of the uri's path, from the end; percent-decoded where it was encoded."""
    found = f"split_part(regexp_replace(uri, '{_ARCHIVE}', ''), '/', {index})"
    # A name that is not UTF-8, which is why it was encoded, stays as it is.
    decoded = f"coalesce(TRY(url_decode({found})), {found})"
    return f"CASE WHEN starts_with(uri, 'file://') THEN {decoded} ELSE {found} END"
