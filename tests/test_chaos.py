"""A fixed piece of the crash matrix; `make chaos` runs all of it."""

import pathlib
import subprocess
import sys

CHAOS = pathlib.Path(__file__).parent / "chaos.py"


def test_quick_crash_matrix(tiny_model):
    command = [sys.executable, str(CHAOS), "--quick", "--model", tiny_model]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
