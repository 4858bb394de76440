"""Similar images: exactness against plain numpy, and near-duplicates made from real pixels."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import SHARED_DATA, make_photos, photo, read_rows
from tables import row, write_run_report, write_table

from imagecensus.jobs.cli import main
from imagecensus.jobs.results.open_table import open_table
from imagecensus.jobs.similar import find_duplicates, find_nearest, group_alike
from imagecensus.model_export.common.errors import UserError


def table_of(folder, vectors, parts=3):
    rows = [
        row(f"/{i:04d}.jpg", embedding=vector.tolist(), width=100 + i)
        for i, vector in enumerate(vectors)
    ]
    rows.append(row("/bad", status="truncated", embedding=[None] * vectors.shape[1]))
    return write_table(folder, rows, parts, embedding_size=vectors.shape[1])


def similar(*args, capsys):
    assert main(["similar", *map(str, args), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line]


def test_nearest_is_the_brute_force_answer(tmp_path):
    vectors = np.random.default_rng(1).normal(size=(500, 12)).astype(np.float32)
    with open_table(table_of(tmp_path / "o", vectors)) as table:
        found = find_nearest(table, vectors[7], 10, "/0007.jpg")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit[7]
    order = [i for i in np.argsort(-scores, kind="stable") if i != 7][:10]
    assert [r["uri"] for r in found] == [f"/{i:04d}.jpg" for i in order]
    assert [r["similarity"] for r in found] == pytest.approx(scores[order].tolist(), abs=1e-6)


def test_ties_and_short_tables(tmp_path):
    vectors = np.ones((5, 3), np.float32)
    with open_table(table_of(tmp_path / "o", vectors)) as table:
        assert [r["uri"] for r in find_nearest(table, vectors[0], 2, "/0000.jpg")] == [
            "/0001.jpg",
            "/0002.jpg",
        ]
        assert len(find_nearest(table, vectors[0], 50)) == 5
        with pytest.raises(UserError, match="--model"):
            find_nearest(table, np.ones(4, np.float32), 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.floats(0.3, 0.99))
def test_groups_are_the_connected_components(seed, count, threshold):
    vectors = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors @ vectors.T >= threshold
    seen, expected = set(), []
    for start in range(count):
        if start not in seen:
            group, edge = {start}, [start]
            while edge:
                edge = [j for i in edge for j in np.flatnonzero(near[i]) if j not in group]
                group |= set(edge)
            seen |= group
            if len(group) > 1:
                expected.append(sorted(map(int, group)))
    assert sorted(map(sorted, group_alike(vectors, threshold))) == sorted(expected)


def test_groups_across_blocks(monkeypatch):
    monkeypatch.setattr("imagecensus.jobs.similar._BLOCK", 8)
    vectors = np.eye(20, dtype=np.float32)[np.arange(100) % 20]
    groups = group_alike(vectors, 0.9)
    assert sorted(map(sorted, groups)) == [list(range(i, 100, 20)) for i in range(20)]


def test_the_largest_image_of_a_group_is_first(tmp_path):
    vectors = np.eye(3, dtype=np.float32)[[0, 1, 0, 2, 0]]
    with open_table(table_of(tmp_path / "o", vectors)) as table:
        rows = find_duplicates(table, 0.99, 100)
        assert [r["uri"] for r in rows] == ["/0004.jpg", "/0002.jpg", "/0000.jpg"]
        with pytest.raises(UserError, match="--max-images"):
            find_duplicates(table, 0.99, 4)


def test_a_run_with_embeddings_and_a_new_image(tiny_model, tmp_path, capsys):
    folder = tmp_path / "in"
    paths = make_photos(folder, 8)
    photo(3).save(folder / "again.png")
    (folder / "broken.jpg").write_bytes(b"no")
    words = ["classify", str(folder), "--model", tiny_model, "--output", str(tmp_path / "out")]
    assert main([*words, "--embeddings"]) == 0
    table = read_rows(tmp_path / "out")
    assert table.schema.field("embedding").type.list_size == 16
    capsys.readouterr()
    found = similar(tmp_path / "out", paths[3], "--top", "2", capsys=capsys)
    assert found[0]["uri"] == str(folder / "again.png") and found[0]["similarity"] > 0.99
    photo(5).resize((128, 96), Image.Resampling.BICUBIC).save(tmp_path / "new.png")
    found = similar(tmp_path / "out", tmp_path / "new.png", capsys=capsys)
    assert found[0]["uri"] == paths[5] and len(found) == 9
    groups = similar(tmp_path / "out", "--duplicates", "--threshold", "0.99", capsys=capsys)
    assert {r["uri"] for r in groups if r["group"] == groups[0]["group"]} >= {
        paths[3],
        str(folder / "again.png"),
    }
    assert main(["similar", str(tmp_path / "out"), "--duplicates"]) == 0
    assert "groups of near-duplicates" in capsys.readouterr().out


def test_another_model_is_refused(tiny_model, other_model, tmp_path, capsys):
    make_photos(tmp_path / "in", 2)
    output = str(tmp_path / "out")
    main(
        [
            "classify",
            str(tmp_path / "in"),
            "--model",
            tiny_model,
            "--output",
            output,
            "--embeddings",
        ]
    )
    [new] = make_photos(tmp_path / "new", 1, first=9)
    assert main(["similar", output, new, "--model", other_model]) == 2
    assert "another model" in capsys.readouterr().err
    assert main(["similar", output, str(tmp_path / "gone.jpg")]) == 2
    assert "not_found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["x.jpg"], "--embeddings"),
        ([], "name one image"),
        (["x.jpg", "--duplicates"], "name one image"),
        (["x.jpg", "--top", "0"], "--top"),
        (["--duplicates", "--threshold", "2"], "--threshold"),
    ],
)
def test_requests_that_make_no_sense(tmp_path, words, told, capsys):
    output = write_table(tmp_path / "out", [row("/a")])
    write_run_report(output, 1)
    assert main(["similar", output, *words]) == 2
    assert told in capsys.readouterr().err


def test_a_table_of_failures_has_no_duplicates(tmp_path, capsys):
    output = write_table(
        tmp_path / "o", [row("/a", status="truncated", embedding=[None] * 4)], embedding_size=4
    )
    assert main(["similar", output, "--duplicates"]) == 0
    assert "no near-duplicates" in capsys.readouterr().out


@pytest.mark.real_data
def test_copies_of_real_photos_are_found(tmp_path, capsys, monkeypatch):
    """Photos resized and saved again are grouped with the original; distinct photos are not."""
    from imagecensus.model_export.default_model import default_model

    monkeypatch.setenv("IMAGECENSUS_CACHE", str(tmp_path / "cache"))
    weights = SHARED_DATA / "weights" / "mobilenet_v2_1.0_224.weights.h5"
    model = default_model(str(weights))
    originals = sorted((SHARED_DATA / "flower_photos" / "test").glob("*/*"))[::12]
    for index, path in enumerate(originals):
        with Image.open(path) as image:
            image.convert("RGB").save(tmp_path / f"{index}.png")
            size = (image.width * 9 // 10, image.height * 9 // 10)
            image.convert("RGB").resize(size).save(tmp_path / f"{index}-small.jpg", quality=90)
    output = str(tmp_path / "out")
    images = [str(path) for path in tmp_path.iterdir() if path.suffix in (".png", ".jpg")]
    main(["classify", *images, "--model", model, "--output", output, "--embeddings"])
    capsys.readouterr()
    groups = similar(output, "--duplicates", "--threshold", "0.9", capsys=capsys)
    for number in {r["group"] for r in groups}:
        names = [os.path.basename(r["uri"]) for r in groups if r["group"] == number]
        assert len({name.split(".")[0].split("-")[0] for name in names}) == 1
    assert len(groups) >= 0.8 * len(images)
