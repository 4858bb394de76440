"""The README keeps its promises: short, and all it names exists."""

import pathlib
import re

from imagecensus.jobs.cli import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_it_is_short_and_whole():
    assert len(README.splitlines()) <= 150
    assert "@@" not in README


def test_commands_exist():
    named = set(re.findall(r"imagecensus ([a-z]+)", README))
    assert {"classify", "train"} <= named and named <= set(COMMANDS)
    rows = re.search(r"## Commands\n(.*?)\n## ", README, re.S).group(1)
    listed = set(re.findall(r"`(?:imagecensus )?([a-z]+)`", rows))
    assert listed == set(COMMANDS)  # every command is in the table


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_files_exist():
    links = re.findall(r"\]\(([^)]+)\)", README)
    paths = re.findall(r"`((?:jobs|transforms|model_export|docs|tests)/[\w/.*-]*\w)`", README)
    for path in links + [p for p in paths if "*" not in p and "<" not in p]:
        assert (ROOT / path).exists(), path
    for constant, path in re.findall(r"`([A-Z_]+)` in `([\w/.]+)`", README):
        assert constant in (ROOT / path).read_text()
