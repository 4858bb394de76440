"""Where the true labels of an evaluation come from."""

from __future__ import annotations

import sys

import duckdb
import pyarrow as pa

from imagecensus.jobs.options.evaluate import HELP
from imagecensus.jobs.results.open_table import Table
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.names import fold
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.common.sql import quote_name
from imagecensus.transforms.inputs.column_types import as_type
from imagecensus.transforms.inputs.locate import resolve
from imagecensus.transforms.inputs.manifests import base_of
from imagecensus.transforms.inputs.read_list import URI_COLUMNS, kind_of, read_rows, scan
from imagecensus.transforms.records import OUTPUT_COLUMNS

# What the table holds of the model, by names as people compare them; uri and the like are no truth
# either.
_ANSWERS = {*OUTPUT_COLUMNS, "embedding"}
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
      UserError: no such column or file, the model's own answers as truth, two truths for one
        image, or nothing matches.
    """
    if source == "parent":
        truth, matched = f"nullif({_component(-2)}, '')", "folder name"
    elif source.startswith("column:"):
        name = _passed_through(table, source)
        truth, matched = f"nullif(CAST({quote_name(name)} AS VARCHAR), '')", f"column {name}"
    else:
        matched = _join_file(table, source, uri_column, label_column)
        _as_the_model_writes_them(table, "matched")
        return matched
    table.connection.execute(f"CREATE VIEW matched AS SELECT *, {truth} AS truth FROM predictions")
    _as_the_model_writes_them(table, "matched")
    return matched


def _passed_through(table: Table, source: str) -> str:
    """The table's column that `column:NAME` names. Raises UserError: it is no truth."""
    name = source.removeprefix("column:")
    theirs = [column for column in table.columns if fold(column) not in _ANSWERS]
    if fold(name) in _ANSWERS:
        like = [column for column in theirs if fold(column).endswith("_" + fold(name))]
        remedy = (
            f"the manifest's is --labels column:{like[0]}"
            if like
            else "name a column that came with the images"
            + (f" ({', '.join(theirs)})" if theirs else "")
            + f", or {HELP.replace('`column:NAME` of the table, ', '')}"
        )
        raise UserError(
            f"--labels {source}: that column is the model's own answer, and would agree with"
            f" itself; {remedy}"
        )
    found = [column for column in theirs if column == name] or [
        column for column in theirs if fold(column) == fold(name)
    ]
    if len(found) != 1:
        raise UserError(
            f"--labels {source}: the table has {'several columns of that name' if found else 'no'}"
            f"{'' if found else ' such column'}; it has {', '.join(theirs) or 'none of yours'}"
        )
    return found[0]


def _refuse_answers(path: str, columns: list[str], label_column: str) -> None:
    """Raises UserError where a file's column of labels is what a model answered."""
    folded = {fold(column) for column in columns}
    wanted = fold(label_column)
    predicted = {"predicted", "prediction"}  # beside it, `label` is the truth: as in corrections
    of_a_model = {"class_id", "score", "top_k"} & folded and not predicted & folded
    of_a_table = bool(of_a_model) and wanted in _ANSWERS
    beside_truth = wanted in predicted and "label" in folded
    if of_a_table or beside_truth:
        remedy = (
            "name the column of true labels with --label-column, or if that is it, leave out"
            " class_id, score and top_k"
        )
        if beside_truth:
            remedy = "the true labels are --label-column label"
        raise UserError(
            f"--labels {path}: its column {label_column!r} holds a model's answers, not true"
            f" labels; {remedy}"
        )


def _as_the_model_writes_them(table: Table, view: str) -> None:
    """Makes `judged` of a view: truth that differs from a label in case or form is that label."""
    connection = table.connection
    labels = connection.execute(
        "SELECT DISTINCT answer.label FROM (SELECT unnest(top_k) AS answer FROM predictions"
        " WHERE status = 'ok')"
    ).fetchall()
    known: dict[str, str] = {}
    for (label,) in sorted(labels):
        # Of labels that people cannot tell apart, neither can be meant by another spelling.
        known[fold(label)] = label if fold(label) not in known else ""
    exact = {label for (label,) in labels}
    truths = connection.execute(
        f"SELECT DISTINCT truth FROM {view} WHERE truth IS NOT NULL"
    ).fetchall()
    renamed = {
        truth: known[fold(truth)]
        for (truth,) in truths
        if truth not in exact and known.get(fold(truth))
    }
    connection.execute("CREATE TABLE spelling (said VARCHAR, label VARCHAR)")
    if renamed:
        connection.executemany("INSERT INTO spelling VALUES (?, ?)", list(renamed.items()))
    connection.execute(
        f"CREATE VIEW judged AS SELECT m.* REPLACE (coalesce(s.label, m.truth) AS truth)"
        f" FROM {view} m LEFT JOIN spelling s ON m.truth = s.said"
    )


def _join_file(table: Table, path: str, uri_column: str, label_column: str) -> str:
    connection = table.connection
    uri_column = _read_truth(connection, path, uri_column, label_column)
    twice = connection.execute(
        "SELECT uri, min(label), max(label) FROM truth GROUP BY uri"
        " HAVING min(label) != max(label) ORDER BY uri LIMIT 1"
    ).fetchone()
    if twice:
        raise UserError(f"{path}: {twice[0]} is both {twice[1]!r} and {twice[2]!r}; keep one")
    # What no row is called exactly may be called so in another Unicode form, as on a Mac's disk.
    connection.execute(
        """
        CREATE TABLE exact AS SELECT DISTINCT uri, label FROM truth;
        CREATE TABLE in_form AS SELECT nfc_normalize(uri) AS form, any_value(label) AS label
          FROM exact ANTI JOIN predictions USING (uri)
          GROUP BY 1 HAVING count(DISTINCT label) = 1;
        CREATE VIEW matched AS SELECT p.*, coalesce(e.label, f.label) AS truth FROM predictions p
          LEFT JOIN exact e ON p.uri = e.uri LEFT JOIN in_form f ON nfc_normalize(p.uri) = f.form
        """
    )
    if _matches(table):
        return "uri"
    # Lists of labels often hold bare file names. They will do where no name occurs twice.
    name = f"nfc_normalize({_component(-1)})"
    connection.execute(
        f"""
        CREATE TABLE by_name AS
          SELECT nfc_normalize(split_part(uri, '/', -1)) AS name, any_value(label) AS label
          FROM truth GROUP BY 1 HAVING count(DISTINCT label) = 1;
        CREATE TABLE unique_name AS SELECT {name} AS name
          FROM predictions GROUP BY 1 HAVING count(*) = 1;
        CREATE OR REPLACE VIEW matched AS SELECT p.*, t.label AS truth FROM predictions p
          LEFT JOIN (SELECT * FROM by_name SEMI JOIN unique_name USING (name)) t
          ON {name} = t.name
        """
    )
    if _matches(table):
        return "file name"
    [(ours, theirs)] = table.query(
        "SELECT (SELECT min(uri) FROM predictions), (SELECT min(uri) FROM truth)"
    )
    raise UserError(
        f"{path}: none of its images is in the table; its column {uri_column!r} has for example"
        f" {theirs!r}, the table {ours!r}"
    )


def _read_truth(
    connection: duckdb.DuckDBPyConnection, path: str, uri_column: str, label_column: str
) -> str:
    """Makes the table `truth` (uri, label) of a file; relative paths start at its folder.

    Returns:
      the column of the file that the uris are in.
    """
    if not kind_of(path):
        raise UserError(f"--labels {path}: neither {HELP}")
    rows = scan(path)
    usual = URI_COLUMNS if uri_column == URI_COLUMNS[0] else ()
    uri_column = rows.column("" if usual else uri_column, "--uri-column", usual)
    label_column = rows.column(label_column, "--label-column")
    _refuse_answers(path, rows.schema.names, label_column)
    indices = [rows.schema.get_field_index(name) for name in (uri_column, label_column)]
    rows, base = rows.with_text(indices), base_of(path)
    connection.execute("CREATE TABLE truth (uri VARCHAR, label VARCHAR)")
    bad: list[tuple[int, str | None]] = []
    for batch in read_rows(rows):
        bad += [pair for pair in zip(batch.numbers, batch.errors, strict=True) if pair[1]]
        texts, labels = (
            as_type(batch.values.column(index), pa.string()).to_pylist() for index in indices
        )
        known = [pair for pair in zip(texts, labels, strict=True) if all(pair)]
        uris = pa.array([resolve(text, base) for text, _ in known], pa.string())
        found = pa.table({"uri": uris, "label": pa.array([x for _, x in known], pa.string())})
        connection.register("found", found)
        connection.execute("INSERT INTO truth SELECT uri, label FROM found")
        connection.unregister("found")
    if bad:
        first = f"{rows.unit} {bad[0][0]} {bad[0][1]}"
        print(
            f"imagecensus: {path}: {counted(len(bad), rows.unit)} left out: {first}",
            file=sys.stderr,
        )
    return uri_column


def _matches(table: Table) -> bool:
    [(count,)] = table.query("SELECT count(truth) FROM matched")
    return bool(count)


def _component(index: int) -> str:
    """SQL for a component of the uri's path, from the end; percent-decoded where it was encoded."""
    found = f"split_part(regexp_replace(uri, '{_ARCHIVE}', ''), '/', {index})"
    # A name that is not UTF-8, which is why it was encoded, stays as it is.
    decoded = f"coalesce(TRY(url_decode({found})), {found})"
    return f"CASE WHEN starts_with(uri, 'file://') THEN {decoded} ELSE {found} END"
