"""The lock names each package with hashes, and none has a licence that does not fit."""

import pathlib
import runpy
import subprocess
import sys

LICENCES = pathlib.Path(__file__).parents[1] / ".ci" / "licences.py"


def test_locked_packages_have_hashes_and_fitting_licences():
    done = subprocess.run([sys.executable, str(LICENCES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_package_without_a_hash_is_found():
    locked_packages = runpy.run_path(str(LICENCES))["locked_packages"]
    text = "a==1 \\\n    --hash=sha256:00\nb==2\n"
    assert locked_packages(text) == {"a": True, "b": False}
