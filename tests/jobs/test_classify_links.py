"""Reruns over images that links lead to: rows move along, none is doubled or made again."""

import json
import os
import pathlib

from samples import make_photos, read_rows

from imagecensus.jobs.cli import main


def classify(*inputs, model, output) -> tuple[set[str], int, dict]:
    """Names of the rows, how many images were classified, and the totals."""
    words = ["classify", *map(str, inputs), "--model", model, "--output", str(output)]
    assert main([*words, "--no-report"]) == 0
    report = json.loads((output / "run_report.json").read_text())
    assert report["totals"]["balanced"]
    names = {row["uri"].lstrip("/") for row in read_rows(output).to_pylist()}
    return names, report["rates"]["images"], report["totals"]


def test_a_row_goes_along_from_link_to_link_and_to_what_they_lead_to(tiny_model, tmp_path):
    folder, objects = tmp_path / "in", tmp_path / "objects"
    folder.mkdir()
    keys = [pathlib.Path(path) for path in make_photos(objects, 2)]
    keys = [path.rename(path.with_name(f"{number}" * 32)) for number, path in enumerate(keys)]
    for name, key in (("a.jpg", keys[0]), ("b.jpg", keys[1])):
        (folder / name).symlink_to(key)
        os.utime(folder / name, (1.6e9, 1.6e9), follow_symlinks=False)
    top = str(tmp_path).lstrip("/")

    def run(*inputs):
        names, images, totals = classify(*inputs, model=tiny_model, output=tmp_path / "out")
        return {os.path.relpath(name, top) for name in names}, images, totals

    assert run(folder)[:2] == ({"in/a.jpg", "in/b.jpg"}, 2)
    (folder / "0.jpg").symlink_to(keys[0])
    names, images, totals = run(folder)
    assert (names, images) == ({"in/a.jpg", "in/b.jpg"}, 0)
    assert totals["left_out"] == {"links": 1} and totals["gone"] == 0
    (folder / "a.jpg").unlink()
    names, images, totals = run(folder)
    assert (names, images, totals["moved"]) == ({"in/0.jpg", "in/b.jpg"}, 0, 1)
    # The names that are no links: beside the links, and without them.
    own = {f"objects/{key.name}" for key in keys}
    assert run(folder, objects)[:2] == (own, 0)
    assert run(folder)[:2] == ({"in/0.jpg", "in/b.jpg"}, 0)
    assert run(objects)[:2] == (own, 0)
