"""Exact copies are inferred once, and their rows are as if they were not."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import photo, read_rows

from imagecensus.jobs.cli import main
from imagecensus.transforms.copies import KnownAnswers


def counted(asked):
    """An engine that answers by the first sample of an image, and fails on 13."""

    def infer(pixels):
        asked.append(len(pixels))
        value = pixels[:, 0, 0, 0].astype(np.float32)
        errors = [f"no {v:.0f}" if v == 13 else None for v in value]
        if all(errors):
            return None, None, None, errors
        return value[:, None].astype(np.int32), value[:, None], value[:, None] * 2, errors

    return infer


@given(st.lists(st.lists(st.integers(0, 14), min_size=1, max_size=9), max_size=5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_answers_are_those_of_each_image_alone(batches, hashed):
    known, asked, distinct = KnownAnswers(kept=6), [], set()
    for values in batches:
        pixels = np.zeros((len(values), 2, 2, 3), np.uint8)
        pixels[:, 0, 0, 0] = values
        hashes = [str(v) if hashed else None for v in values]
        (ids, scores, vectors, errors), copies = known.infer(counted(asked), pixels, hashes)
        assert errors == ["no 13" if v == 13 else None for v in values]
        for row, value in enumerate(values):
            if value != 13:
                assert (ids[row, 0], scores[row, 0], vectors[row, 0]) == (value, value, 2 * value)
        assert copies <= len(values) - len(set(values) - distinct - {13} or ())
        distinct |= set(values)
    if not hashed:
        assert sum(asked) == sum(map(len, batches))


def test_the_least_used_are_forgotten():
    known, asked = KnownAnswers(kept=2), []
    for value in (1, 2, 1, 3, 1, 2):
        known.infer(counted(asked), np.full((1, 1, 1, 3), value, np.uint8), [str(value)])
    assert len(asked) == 4  # 1, 2, 3, and 2 again


@pytest.mark.parametrize("embeddings", [False, True])
def test_classify_says_how_many_were_copies(tiny_model, tmp_path, capsys, embeddings):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(12):
        photo(number % 4).save(folder / f"{number}.png")
    command = ["classify", str(folder), "--model", tiny_model, "--output", str(output)]
    command += ["--no-report"]
    assert main([*command, *(["--embeddings"] if embeddings else [])]) == 0
    assert "8 images with the same bytes as another one" in capsys.readouterr().out
    rows = {row["uri"].rpartition("/")[2]: row for row in read_rows(output).to_pylist()}
    assert len(rows) == 12
    for number in range(12):
        one, other = rows[f"{number}.png"], rows[f"{number % 4}.png"]
        assert {**one, "uri": "", "etag_or_mtime": ""} == {**other, "uri": "", "etag_or_mtime": ""}
    [part] = (output / "predictions").glob("*.parquet")
    assert pq.read_table(part).num_rows == 12
