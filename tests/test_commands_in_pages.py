"""Every command that a page shows is one that the command line takes: parsed, not run."""

from __future__ import annotations

import pathlib
import re
import shlex

import pytest

from imagecensus.jobs import cli
from imagecensus.jobs.command import options as command_options

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[tuple[str, str]]:
    """(page, command): lines of code, and what is between backquotes."""
    found = []
    for page in PAGES:
        text = re.sub(r" *\\\n\s+", " ", page.read_text())
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"^    (.+)$", text, re.MULTILINE)
        for line in lines:
            match = re.match(r"(?:\w+=\S+ )*(imagecensus [a-z].*?)(?:\s+#.*| &)?$", line.strip())
            if match:
                found.append((page.name, match[1]))
        inside = re.findall(r"`(imagecensus [a-z]+ [^`\n]+)`", re.sub(r"```.*?```", "", text))
        found += [(page.name, one) for one in inside]
    return found


@pytest.fixture
def parse(monkeypatch):
    """The options of a command; None where it only prints what there is."""
    monkeypatch.setattr(command_options, "refuse", lambda problems: None)  # paths are made up

    def parse(words):
        try:
            return cli.parse(words[0], words[1:])
        except SystemExit as ended:
            assert ended.code == 0
            return None

    return parse


@pytest.mark.parametrize("page, command", commands())
def test_a_command_of_a_page_is_taken(parse, page, command):
    from imagecensus.jobs.classification.beam_flags import validate_beam

    command = command.replace("...the same arguments...", "gs://b/in --output=gs://b/out")
    words = [re.sub(r"^\[(.+)\]$", r"\1", word) for word in shlex.split(command)[1:]]
    words = [re.sub(r"=HOURS$", "=3", word).strip("….") for word in words]
    words = list(filter(None, words))
    if words[0] in ("classify", "plan"):  # of which a sentence says only what matters there
        words.insert(1, "more")
    if words[0] == "classify" and "--output" not in command:
        words += ["--output=out"]
    options = parse(words)
    if words[0] == "classify":
        validate_beam(options.beam_args, options.runner)


def test_the_pages_have_commands():
    found = commands()
    assert len(found) > 40
    assert {"README.md", "dataflow.md", "flink.md", "gpu.md", "stores.md"} <= {p for p, _ in found}
