"""A process of its own leaves out what it does not use."""

import subprocess
import sys

from samples import make_photos

WATCHED = ("tensorflow", "pandas", "google.cloud.bigquery", "apache_beam.io.gcp")


def imported_by(*argv) -> set:
    """Which of the watched modules a run of the command imports; it must succeed."""
    code = (
        "import sys\n"
        "from imagecensus.jobs.command import process\n"
        "from imagecensus.jobs.cli import main\n"
        "process.own_process = True\n"
        "code = main(sys.argv[1:])\n"
        f"print('IMPORTED', *[m for m in {WATCHED} if m in sys.modules])\n"
        "process.leave(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_classify_imports_neither_tensorflow_nor_connectors(tmp_path, tiny_model):
    make_photos(tmp_path / "in", 1)
    argv = ("classify", tmp_path / "in", "--output", tmp_path / "out", "--model", tiny_model)
    assert imported_by(*argv) == set()
    assert imported_by(*argv) == set(), "a rerun has nothing to do"


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom imagecensus.jobs.cli import main\nmain(['--help'])\n"
        "sys.exit(any(m in sys.modules for m in ('numpy', 'pyarrow', 'apache_beam')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_of_a_command_that_is_run_as_a_module_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "imagecensus.jobs.train", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("usage: imagecensus train")
    assert "numpy" not in done.stderr and "tensorflow" not in done.stderr


def test_command_passes_its_exit_code_on():
    done = subprocess.run(
        [sys.executable, "-m", "imagecensus.jobs.cli", "no-such-job"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no command 'no-such-job'" in done.stderr


def test_what_is_loaded_when_used_is_the_real_thing():
    """What Beam and OpenVINO are imported without is there for whoever asks for it."""
    code = (
        "import sys\n"
        "from imagecensus.jobs.command import process\n"
        "process.own_process = True\n"
        "with process.without_unused():\n"
        "    import openvino\n"
        "process.import_beam()\n"
        "early = ('openvino.tools.ovc', 'beartype', 'beartype.door', 'pyparsing')\n"
        "assert not [name for name in early if name in sys.modules]\n"
        "from apache_beam.typehints import typehints\n"
        "assert typehints.is_subhint(bool, int) is True\n"
        "assert typehints.is_subhint(str, int) is False\n"
        "from beartype.door import is_subhint\n"
        "assert is_subhint.__module__.startswith('beartype.'), is_subhint.__module__\n"
        "import httplib2\n"
        "assert httplib2.Http().timeout is None\n"
        "from openvino.tools.ovc import convert_model\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
