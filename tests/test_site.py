"""The site builds without a warning, and its made pages hold what the code says."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import imagecensus
from imagecensus.jobs.cli import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]


def test_the_site_builds_and_every_command_and_name_has_its_place(tmp_path):
    typing = ROOT / "build" / "typing"
    subprocess.run([str(ROOT / ".ci" / "link-package"), str(typing)], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "COLUMNS": "40"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    commands = (tmp_path / "commands.html").read_text("utf-8")
    for name in COMMANDS:
        assert f"usage: imagecensus {name}" in commands, name
    assert (
        "folder of class folders (or of train, val, test), manifest" in commands
    )  # as wide as fits
    reference = (tmp_path / "reference.html").read_text("utf-8")
    for name in imagecensus.__all__:
        if not name.startswith("_"):
            assert re.search(rf'id="imagecensus[\w.]*\.{name}"', reference), name
    # Reading a page fetches nothing from elsewhere.
    for page in tmp_path.glob("*.html"):
        text = page.read_text("utf-8")
        fetched = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?://[^"]+)"', text)
        assert not [url for url in fetched if "rel=" not in url], (page.name, fetched)
