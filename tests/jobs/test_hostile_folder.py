"""Commands run in a folder of hostile files: nothing in it is ever imported or executed."""

from __future__ import annotations

import importlib.metadata
import io
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tarfile

import keras
import pytest
from samples import make_photos, photo

from imagecensus.jobs.cli import COMMANDS

# What a child process, or a library in it, might import from the current folder.
HOSTILE = (
    "json.py", "numpy.py", "typing.py", "io.py", "PIL/__init__.py", "pyarrow/__init__.py",
    "tensorflow.py", "keras.py", "matplotlib.py", "sitecustomize.py", "usercustomize.py",
    "imagecensus/__init__.py", "jobs/__init__.py", "transforms/__init__.py",
    "model_export/__init__.py", "apache_beam.py",
)  # fmt: skip
IMAGECENSUS = str(pathlib.Path(sys.executable).with_name("imagecensus"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of images, beside modules that leave a file when they are run."""
    folder = tmp_path_factory.mktemp("hostile")
    make_photos(folder / "photos", 3)
    (folder / "photos" / "cut.jpg").write_bytes(
        (folder / "photos" / "00000.jpg").read_bytes()[:400]
    )
    with tarfile.open(folder / "photos" / "more.tar", "w") as archive:
        file = io.BytesIO()
        photo(9).save(file, "PNG")
        info = tarfile.TarInfo("inside.png")
        info.size = file.tell()
        archive.addfile(info, io.BytesIO(file.getvalue()))
    for label in ("a", "b"):
        make_photos(folder / "labelled" / label, 12)
    inputs = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    keras.Model(inputs, keras.layers.Dense(2, "softmax")(pooled)).save(folder / "net.keras")
    (folder / "labels.txt").write_text("a\nb\n")
    (folder / "matplotlibrc").write_text("text.usetex: True\nbackend: module://json\n")
    for name in HOSTILE:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        mark = folder / "run" / name.replace("/", ".")
        path.write_text(f"open({str(mark)!r}, 'w').close()\nraise SystemExit(99)\n")
    (folder / "run").mkdir()
    return folder


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(folder, *words) -> str:
    done = subprocess.run(
        [IMAGECENSUS, *words], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def executed(folder) -> list[str]:
    return sorted(os.listdir(folder / "run"))


def test_no_command_runs_a_file_of_the_folder_it_stands_in(hostile, tiny_model, tmp_path):
    model = str(tiny_model)
    said = run(hostile, "classify", "photos", "--output", str(tmp_path / "out"), "--model", model)
    assert "5 images = 4 predicted + 1 failed" in said
    assert executed(hostile) == [], "classify"
    run(hostile, "report", str(tmp_path / "out"))
    assert executed(hostile) == [], "report draws the cut image in a child process"
    run(hostile, "predict", "photos/00000.jpg", "--model", model)
    assert executed(hostile) == [], "predict"
    network = ["--backbone", "cnn:8-pool-gap", "--weights", "none", "--image-size", "28"]
    run(hostile, "train", "labelled", "--output", str(tmp_path / "m"), *network, "--epochs", "1")
    assert executed(hostile) == [], "train proves its export in a child process"
    words = ["--labels", "labels.txt", "--input-range", "0..1", "--output", str(tmp_path / "e")]
    run(hostile, "export", "net.keras", *words)
    assert executed(hostile) == [], "export"


def test_browse_runs_no_file_of_the_folder_it_stands_in(hostile, tiny_model, tmp_path):
    output = str(tmp_path / "out")
    run(hostile, "classify", "photos", "--output", output, "--model", str(tiny_model))
    words = [IMAGECENSUS, "browse", output, "--port", "0"]
    server = subprocess.Popen(
        words, cwd=hostile, env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert "http://127.0.0.1" in server.stdout.readline()
    finally:
        server.terminate()
        server.communicate()
    assert executed(hostile) == []


def test_python_dash_m_forgets_the_folder_before_it_imports_ours(tmp_path, tiny_model):
    """Python itself looks there for `imagecensus`; what we import later comes from elsewhere."""
    make_photos(tmp_path / "photos", 1)
    (tmp_path / "photos" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    for name in ("json.py", "numpy.py", "difflib.py"):
        (tmp_path / name).write_text("raise SystemExit(99)\n")
    words = ["classify", "photos", "--output", "out", "--model", str(tiny_model)]
    for module in ("imagecensus", "imagecensus.jobs.cli"):
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            cwd=tmp_path, env=environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_children_work_where_the_folder_cannot_be_read(tmp_path, tiny_model):
    make_photos(tmp_path / "photos", 1)
    (tmp_path / "photos" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    closed = tmp_path / "closed"
    closed.mkdir()
    words = ["classify", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    # What root may read although it is closed is a capability, which can be given up.
    rights = "-dac_override,-dac_read_search"
    without = ["setpriv", f"--inh-caps={rights}", f"--bounding-set={rights}"]
    if os.getuid() != 0:
        without = []
    elif not shutil.which("setpriv"):
        pytest.skip("root may read every folder, and there is no setpriv to give that up")
    command = [*without, IMAGECENSUS, *words, "--model", str(tiny_model)]
    inside = f"cd {closed} && chmod 000 . && exec {shlex.join(command)}"
    try:
        done = subprocess.run(
            ["sh", "-c", inside], env=environment(), capture_output=True, text=True
        )
    finally:
        closed.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert "2 images = 1 predicted + 1 failed" in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_runs_as_a_module_too(name, tmp_path):
    needed = ["--output", "out"] if name in ("train", "export", "quantize") else []
    needed += ["--images", "photos"] if name == "quantize" else []
    needed += ["--labels", "labels.txt", "--input-range", "0..1"] if name == "export" else []
    root = pathlib.Path(__file__).parents[2]
    for module in (f"imagecensus.jobs.{name}", f"jobs.{name}"):
        words = [sys.executable, "-m", module]
        refused = subprocess.run([*words, "", *needed], cwd=root, capture_output=True, text=True)
        assert refused.returncode == 2 and "is empty" in refused.stderr, refused.stderr
    done = subprocess.run([*words, "--help"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and f"imagecensus {name}" in done.stdout, done.stderr


def test_python_dash_m_imports_no_module_of_any_name_from_the_folder(tmp_path, tiny_model):
    """All names that Python and the installed packages have, but for what Python itself imports."""
    make_photos(tmp_path / "photos", 2)
    code = "import runpy, sys; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before_us = {name.partition(".")[0] for name in told.stdout.split()} | {"imagecensus"}
    names = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()} - before_us
    assert {"typing", "json", "numpy", "subprocess"} <= names
    mark = tmp_path / "run"
    folder = tmp_path / "here"
    folder.mkdir()
    for name in filter(str.isidentifier, names):
        code = f"import os; open({str(mark)!r}, 'a').write({name!r} + ' '); os._exit(99)"
        (folder / f"{name}.py").write_text(code)
    output = str(tmp_path / "out")
    words = ["classify", str(tmp_path / "photos"), "--output", output, "--model", str(tiny_model)]
    done = subprocess.run(
        [sys.executable, "-m", "imagecensus.jobs.cli", *words],
        cwd=folder, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert not mark.exists(), mark.read_text()
    assert done.returncode == 0, done.stderr


def test_another_programs_path_stays_as_it_is(tmp_path):
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__init__.py").write_text("import imagecensus\n")
    (tmp_path / "program" / "__main__.py").write_text("import beside\n")
    (tmp_path / "beside.py").write_text("print('found')\n")
    words = [sys.executable, "-m", "program"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stdout == "found\n", done.stderr


def test_a_folder_that_is_gone_is_said_in_a_sentence(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    words = [IMAGECENSUS, "report", str(tmp_path)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "current folder does not exist" in done.stderr and "Traceback" not in done.stderr
