"""Pages of the site that are made when it is built: they come from the code, so they cannot differ.

`index.md` is the README, `changelog.md` the changelog, `commands.md` the options of every command,
and `reference.md` the docstrings of the Python interface. See `mkdocs.yml`.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import imagecensus
from imagecensus.jobs import cli

ROOT = pathlib.Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code."""
    pages = {
        "index.md": readme_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text("utf-8"),
        "commands.md": commands_page(),
        "reference.md": reference_page(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def readme_page() -> str:
    """The README, with its links as they are from within `docs/`."""
    text = (ROOT / "README.md").read_text("utf-8")
    return re.sub(r"\]\(docs/", "](", text)


def commands_page() -> str:
    """What `imagecensus COMMAND --help` says of each command."""
    os.environ["COLUMNS"] = "100"  # not those of the terminal that this is built in
    parts = ["# Commands\n", "What `imagecensus COMMAND --help` prints, for every command.\n"]
    for name, text in cli.COMMANDS.items():
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            cli.main([name, "--help"])
        parts.append(f"## imagecensus {name}\n\n{text[0].upper()}{text[1:]}.\n")
        parts.append(f"```text\n{said.getvalue().rstrip()}\n```\n")
    return "\n".join(parts)


def reference_page() -> str:
    """The docstrings of the names that `import imagecensus` offers."""
    parts = ["# Python reference\n", "Examples are on the page [From Python](python.md).\n"]
    for name in sorted(imagecensus.__all__):
        if not name.startswith("_"):
            home = imagecensus._HOMES.get(name, "imagecensus.model_export.common.errors")
            parts.append(f"::: {home}.{name}\n")
    return "\n".join(parts)
