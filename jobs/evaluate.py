"""`imagecensus evaluate`: how good the labels of a finished table are, against the truth."""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("evaluate")

import json
from typing import Any

import numpy as np

from imagecensus.jobs.options.evaluate import EvaluateOptions
from imagecensus.jobs.report import EVALUATION_FORMAT, write_report
from imagecensus.jobs.results.open_table import Table, as_csv, open_table, write_bytes
from imagecensus.jobs.results.queries import count_no_images
from imagecensus.jobs.results.training_overlap import describe_overlap, measure_overlap
from imagecensus.jobs.results.true_labels import join_truth
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.training.metrics import measure
from imagecensus.model_export.training.plots import plot_evaluation

FOLDER = "evaluation"
MISTAKES_LISTED = 1000
MISTAKES_SHOWN = 12
CONFUSIONS_SHOWN = 15
ALL_RIGHT = 20  # so many and no mistake is more often a truth made from the answers


def main(options: EvaluateOptions) -> int:
    evaluation = evaluate(
        options.output,
        options.labels,
        options.uri_column,
        options.label_column,
        model=options.model,
    )
    print(summarize(evaluation))
    print(f"\nreport       {write_report(options.output)}")
    return 0


def evaluate(
    output: str,
    labels: str,
    uri_column: str = "uri",
    label_column: str = "label",
    *,
    model: str = "",
) -> dict[str, Any]:
    """Evaluates a table; writes `evaluation/` into its folder; returns what evaluation.json holds.

    The folder gets evaluation.json, per_class.csv, confusion.csv (truth, label, count: all pairs
    that occur), mistakes.csv (the most certain ones first) and plots as PNG.

    Args:
      output: of `classify`.
      labels, uri_column, label_column: of the truth, see `join_truth`.
      model: the model's folder, for `training_overlap`; "": where the run's report says it was.

    Raises:
      UserError: no table; no truth (see `join_truth`); no true label among the model's; or
        `model` is not the table's.
    """
    with open_table(output) as table:
        matched = join_truth(table, labels, uri_column, label_column)
        evaluation: dict[str, Any] = {
            "format": EVALUATION_FORMAT,
            "labels": labels,
            "matched_by": matched,
            **count_rows(table),
        }
        evaluation["unknown_labels"] = _unknown_labels(table, labels)
        evaluation |= _measure(table)
        evaluation["training_overlap"] = measure_overlap(table, model)
        confusion = _rows(
            table,
            "SELECT truth, label, count(*) AS count FROM judged WHERE status = 'ok'"
            " AND truth IS NOT NULL GROUP BY ALL ORDER BY count DESC, truth, label",
        )
        mistakes = _rows(
            table,
            "SELECT uri, truth, label, score FROM judged WHERE status = 'ok' AND truth != label"
            f" ORDER BY score DESC, uri LIMIT {MISTAKES_LISTED}",
        )
    evaluation["confusions"] = [row for row in confusion if row["truth"] != row["label"]]
    evaluation["confusions"] = evaluation["confusions"][:CONFUSIONS_SHOWN]
    evaluation["mistakes"] = mistakes[:MISTAKES_SHOWN]
    files = {
        "per_class.csv": _csv(evaluation["per_class"]),
        "confusion.csv": _csv(confusion),
        "mistakes.csv": _csv(mistakes),
        **plot_evaluation(evaluation, confusion),
        "evaluation.json": json.dumps(evaluation, indent=1).encode(),
    }
    for name, content in files.items():
        write_bytes(output, f"{FOLDER}/{name}", content)
    return evaluation


def count_rows(table: Table) -> dict[str, int]:
    """How many rows there are, have a truth, and can be judged, failed or are no images."""
    [(rows, known, judged)] = table.query(
        "SELECT count(*), count(truth), count(truth) FILTER (status = 'ok') FROM judged"
    )
    if not judged:
        raise UserError(
            f"{table.output}: {counted(rows, 'row')}, {known:,} of them with a true label, none of"
            " these classified; nothing to evaluate"
        )
    others = count_no_images(table, "(SELECT * FROM judged WHERE truth IS NOT NULL)")
    failed = known - judged - others
    return {
        "rows": rows, "with_truth": known, "evaluated": judged, "failed": failed,
        "not_images": others,
    }  # fmt: skip


def summarize(evaluation: dict[str, Any]) -> str:
    """The figures that matter most, one a line."""
    accuracy, average = evaluation["accuracy"], evaluation["average"]["macro"]
    lines = [
        (
            f"evaluated    {evaluation['evaluated']:,} of {counted(evaluation['rows'], 'row')},"
            f" truth by {evaluation['matched_by']}"
        )
    ]
    if evaluation["failed"]:
        lines.append(
            f"failed       {counted(evaluation['failed'], 'more row')} with a truth and no label"
        )
    lines.append(
        f"accuracy     {accuracy['value']:.4f}"
        f"   (95 % interval {accuracy['low']:.4f} to {accuracy['high']:.4f})"
    )
    lines += [
        f"top-{k:<8} {share['value']:.4f}"
        for k, share in evaluation["top_k_accuracy"].items()
        if k != "1"
    ]
    lines.append(
        f"macro        precision {average['precision']:.4f}   recall {average['recall']:.4f}"
        f"   F1 {average['f1']:.4f}"
    )
    lines.append(f"calibration  expected error {evaluation['calibration']['ece']:.4f}")
    for point in evaluation["coverage"]:
        if point["threshold"] in (0.5, 0.8, 0.9, 0.95) and point["accuracy"] is not None:
            lines.append(
                f"score ≥ {point['threshold']:.2f} {point['coverage']:.1%} of rows,"
                f" accuracy {point['accuracy']:.4f}"
            )
    if accuracy["value"] == 1 and evaluation["evaluated"] >= ALL_RIGHT:
        lines.append(
            "note         every true label is the model's answer; make sure that the truth was not"
            " made from these"
        )
    overlap = describe_overlap(evaluation["training_overlap"], evaluation["evaluated"])
    if overlap:
        lines.append(f"training     {overlap}")
    if evaluation["unknown_labels"]:
        unknown = evaluation["unknown_labels"]
        wrong = counted(sum(unknown.values()), "row")
        lines.append(
            f"note         {wrong} counted as wrong, with a true label that the model never"
            f" answers: {', '.join(list(unknown)[:5])}{' …' if len(unknown) > 5 else ''}"
        )
    return "\n".join(lines)


def _unknown_labels(table: Table, source: str) -> dict[str, int]:
    """True labels that are never among the model's answers, with their rows.

    Raises:
      UserError: that is all of them: truth in other words than the model's is a mistake in the
        request, not an accuracy of 0.
    """
    truth = dict(
        table.query(
            "SELECT truth, count(*) FROM judged WHERE status = 'ok' AND truth IS NOT NULL"
            " GROUP BY 1 ORDER BY 2 DESC, 1"
        )
    )
    answers = {
        label
        for (label,) in table.query(
            "SELECT DISTINCT answer.label FROM (SELECT unnest(top_k) AS answer FROM judged"
            " WHERE status = 'ok')"
        )
    }
    if not answers.intersection(truth):
        raise UserError(
            f"--labels {source}: no true label is among the answers for any image; the truth has"
            f" {', '.join(sorted(truth)[:4])}; the answers are {', '.join(sorted(answers)[:4])}"
        )
    return {label: count for label, count in truth.items() if label not in answers}


def _measure(table: Table) -> dict[str, Any]:
    """The figures of `imagecensus.model_export.training.metrics` over the judged rows."""
    table.connection.execute(
        """
        CREATE TABLE classes AS SELECT name, row_number() OVER (ORDER BY name) - 1 AS code FROM (
          SELECT truth AS name FROM judged WHERE status = 'ok' AND truth IS NOT NULL
          UNION SELECT label FROM judged WHERE status = 'ok' AND truth IS NOT NULL)
        """
    )
    labels = [name for (name,) in table.query("SELECT name FROM classes ORDER BY code")]
    arrays = table.connection.execute(
        """
        SELECT t.code::INT AS truth, p.code::INT AS predicted, score,
          coalesce(list_position(list_transform(top_k, lambda x: x.label), j.truth), 0)::INT
            AS rank
        FROM judged j JOIN classes t ON j.truth = t.name JOIN classes p ON j.label = p.name
        WHERE status = 'ok'
        """
    ).fetchnumpy()
    truth, predicted, score, rank = (
        np.ma.filled(arrays[name], 0) for name in ("truth", "predicted", "score", "rank")
    )
    [(top_k,)] = table.query("SELECT max(len(top_k)) FROM judged")
    return measure(truth, predicted, score=score, rank=rank, labels=labels, top_k=top_k or 1)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    return as_csv(list(rows[0]) if rows else [], rows)


def _rows(table: Table, sql: str) -> list[dict[str, Any]]:
    cursor = table.connection.execute(sql)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
