"""How every child process of the project begins: it sees nothing of the current folder.

`python -m` puts the current folder first on the path of imports, and an empty entry of PYTHONPATH
means the current folder, too: a `json.py` in an archive would be run by a user who classifies that
archive. Children are therefore started with Python's `-P`, in the folder `/`, and with those
entries of PYTHONPATH that name a folder.
"""

from __future__ import annotations

import os
import sys

# Where children work: it always exists, can be entered by everybody, and holds no archive.
WORKING_FOLDER = os.sep


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of the project in a child process."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment(**more: str) -> dict[str, str]:
    """This process's environment for a child, with `more` set.

    Of PYTHONPATH only what names a folder is kept, and as absolute paths: the child works in
    another folder.
    """
    environment = {**os.environ, **more}
    named = [path for path in environment.pop("PYTHONPATH", "").split(os.pathsep) if path]
    if named:
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, named))
    return environment
