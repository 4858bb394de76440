"""What the Makefile installs: the locks as they are, for each supported Python, by each Python."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import venv
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
FIND_PYTHON = ROOT / ".ci" / "find-python"
PYTHONS = ["3.11", "3.12", "3.13"]


def entries(lock: str = "constraints.txt") -> list[tuple[Requirement, str]]:
    """The packages of a lock, and the text of each entry."""
    found = []
    for entry in re.split(r"(?m)^(?=[a-z0-9])", (ROOT / lock).read_text()):
        if entry.strip():
            found.append((Requirement(entry.split("\\")[0].strip()), entry))
    return found


def environment(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.9", "extra": ""}


def locked(python: str, lock: str = "constraints.txt") -> dict[str, str]:
    """name → version, as this Python installs them."""
    versions = {}
    for requirement, _ in entries(lock):
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            assert requirement.name not in versions, f"{requirement.name} is locked twice"
            versions[requirement.name] = next(iter(requirement.specifier)).version
    return versions


def made_of_the_lock() -> bool:
    """Whether the packages here are the locked ones: not so in `make test-latest`."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    here = {canonicalize_name(d.name): d.version for d in importlib.metadata.distributions()}
    return python in PYTHONS and locked(python).items() <= here.items()


def run_make(*words: str, **variables: str) -> str:
    command = ["make", "--no-print-directory", "--always-make", "-n", *words]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_wheel(folder: pathlib.Path, name: str, version: str, requires=()) -> str:
    """A wheel of an empty package; returns its sha256."""
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {one}\n" for one in requires),
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(text)}\n"
    files[f"{stem}.dist-info/RECORD"] = record + f"{stem}.dist-info/RECORD,,\n"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A new environment."""
    place = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(place, with_pip=True)
    return place


@pytest.mark.parametrize(
    "target, place, lock",
    [
        ("env", ".venv", "constraints.txt"),
        ("env-classify", ".venv-classify", "constraints-classify.txt"),
    ],
)
def test_releases_made_since_change_nothing(target, place, lock, fresh, tmp_path):
    """The Makefile's own command, run by the pip that a new environment begins with.

    An index of made-up wheels stands for the real one: each locked version, a release 999.0.0 of
    each package, and a package that asks for an extra of another, which made pip 23 take the
    newest, and for one that the lock does not name.
    """
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    text = ""
    for requirement, entry in entries(lock):
        version = next(iter(requirement.specifier)).version
        requires = (
            ["google-auth[pyopenssl]>=2", "not-in-the-lock"]
            if requirement.name.endswith("bigquery")
            else []
        )
        digest = write_wheel(wheels, requirement.name, version, requires)
        write_wheel(wheels, requirement.name, "999.0.0")
        text += entry.split("\n")[0] + f"\n    --hash=sha256:{digest}\n"
    write_wheel(wheels, "not-in-the-lock", "1.0")
    (tmp_path / lock).write_text(text)
    (tmp_path / place).symlink_to(fresh)

    (command,) = (line for line in run_make(target).splitlines() if lock in line and "pip" in line)
    settings = {
        "PIP_DRY_RUN": "1",
        "PIP_IGNORE_INSTALLED": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_REPORT": str(tmp_path / "report.json"),
        "PIP_CONFIG_FILE": os.devnull,
    }
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | settings,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    chosen = {
        canonicalize_name(one["metadata"]["name"]): one["metadata"]["version"]
        for one in json.loads((tmp_path / "report.json").read_text())["install"]
    }
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert chosen == locked(python, lock)
    assert chosen["google-auth"] != "999.0.0"


@pytest.mark.skipif(not made_of_the_lock(), reason="this environment is not made of the lock")
def test_the_lock_is_without_contradiction():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def unmet(python: str, versions: dict[str, str], roots: list[str]) -> tuple[list[str], set[str]]:
    """What the roots and all that they require, extras too, lack of these versions; what they use.

    Requirements are those of the packages installed here.
    """
    missing, seen = [], set()
    todo = [(Requirement(root), "setup.py") for root in roots]
    while todo:
        requirement, asker = todo.pop()
        name = canonicalize_name(requirement.name)
        version = versions.get(name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            missing.append(f"{asker} needs {requirement}, the lock has {version}")
            continue
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue  # a package of other Pythons
            if importlib.metadata.version(name) != version:
                continue
            here = {**environment(python), "extra": extra}
            for need in map(Requirement, needs):
                if need.marker is None or need.marker.evaluate(here):
                    todo.append((need, name))
    return missing, {name for name, _ in seen}


def wanted(extra: str) -> list[str]:
    """What setup.py asks for, with an extra."""
    asked: dict = {}
    code = (ROOT / "setup.py").read_text().replace("from setuptools import setup\n", "")
    variables = {"setup": lambda **words: asked.update(words), "__file__": str(ROOT / "setup.py")}
    exec(compile(code, "setup.py", "exec"), variables)
    return asked["install_requires"] + (asked["extras_require"][extra] if extra else [])


@pytest.mark.skipif(not made_of_the_lock(), reason="this environment is not made of the lock")
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    "lock, extra", [("constraints.txt", "dev"), ("constraints-classify.txt", "")]
)
def test_each_supported_python_finds_all_it_needs_in_the_lock(python, lock, extra, monkeypatch):
    monkeypatch.chdir(ROOT)
    versions = locked(python, lock)
    missing, used = unmet(python, versions, [*wanted(extra), "setuptools"])
    assert not missing
    assert {"apache-beam", "openvino", "google-auth"} <= used


def test_the_smaller_lock_is_a_part_of_the_lock_and_holds_no_tensorflow():
    for python in PYTHONS:
        small = locked(python, "constraints-classify.txt")
        assert small.items() <= locked(python).items()
        assert not [name for name in small if "tensor" in name or name in ("keras", "tfx-bsl")]
    texts = {entry.split("\n", 1)[1] for _, entry in entries()}
    assert {entry.split("\n", 1)[1] for _, entry in entries("constraints-classify.txt")} <= texts


def script(folder: pathlib.Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def find_python(folder: pathlib.Path, given: str = "") -> subprocess.CompletedProcess:
    command = ["/bin/sh", str(FIND_PYTHON), given]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": str(folder)})


def test_the_newest_supported_python_that_runs_is_taken(tmp_path):
    script(tmp_path, "python3.14", "echo 3.14")
    script(tmp_path, "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    script(tmp_path, "python3.12", "echo 3.12")
    script(tmp_path, "python3.11", "echo 3.11")
    assert find_python(tmp_path).stdout == "python3.12\n"
    assert find_python(tmp_path, "python3.11").stdout == "python3.11\n"
    (tmp_path / "python3.12").unlink()
    (tmp_path / "python3.11").unlink()
    script(tmp_path, "python3", "echo 3.13")
    assert find_python(tmp_path).stdout == "python3\n"


def test_without_a_supported_python_it_says_which_do_and_how_to_get_one(tmp_path):
    script(tmp_path, "python3", "echo 3.10")
    done = find_python(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr and "install one" in done.stderr
    done = find_python(tmp_path, "python3")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("PYTHON=python3 is not a Python 3.11, 3.12 or 3.13")


def test_every_package_of_an_extra_is_named_where_it_is_missing(monkeypatch, capsys):
    from imagecensus.jobs import cli

    modules = {"scikit-learn": "sklearn"}
    core = {canonicalize_name(Requirement(one).name) for one in wanted("")}
    for extra in ("tensorflow", "report", "tfds", "browse", "formats", "quantize", "delta"):
        for one in wanted(extra):
            name = canonicalize_name(Requirement(one).name)
            if name not in core | {"setuptools"}:
                assert cli._EXTRAS[modules.get(name, name.replace("-", "_"))] == extra

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="tensorflow.io")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    assert cli.run_job("train", []) == 2
    assert "pip install 'imagecensus[tensorflow]'" in capsys.readouterr().err


def test_setup_py_and_the_search_agree_on_the_supported_pythons():
    setup = (ROOT / "setup.py").read_text()
    assert 'SUPPORTED="3.13 3.12 3.11"' in FIND_PYTHON.read_text()
    assert 'python_requires=">=3.11,<3.14"' in setup
    assert re.findall(r"Python :: (3\.\d+)", setup) == PYTHONS
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.search(r"python: (\[.*\])", ci)[1] == json.dumps(PYTHONS)


def test_workflows_run_make_targets_that_exist():
    import yaml

    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert True in workflow and workflow["permissions"] == {"contents": "read"}  # `on` is true
        for job in workflow["jobs"].values():
            assert job["timeout-minutes"]
            for step in job["steps"]:
                if "uses" in step:
                    assert re.fullmatch(
                        r"[\w-]+/[\w-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})", step["uses"]
                    )
                    continue
                words = step["run"].split()
                assert words[0] == "make" and words[1] in targets | {"${{"}, step["run"]
            matrix = job.get("strategy", {}).get("matrix", {})
            assert set(matrix.get("target", [])) <= targets
    lint = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in lint["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in lint["repos"]} == {"local"}
    linters = set(re.findall(r"\$\(BIN\)/(\S.*)", run_makefile_target("lint")))
    assert {hook["entry"].removeprefix(".venv/bin/") + " ." for hook in hooks} >= {
        line for line in linters if line.startswith("ruff")
    }


def run_makefile_target(target: str) -> str:
    text = (ROOT / "Makefile").read_text()
    return re.search(rf"(?m)^{target}:.*\n((?:\t.*\n)+)", text)[1]
