"""The layout: who may import whom, no circles, and a sentence in every package."""

from __future__ import annotations

import ast
import collections
import pathlib
import re
import runpy

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("jobs", "transforms", "model_export")
PREFIX = "imagecensus."
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# A module may import from its own floor and from the floors after it.
FLOORS = ("jobs", "transforms", "model_export", "model_export.common")


def name_of(path: pathlib.Path) -> str:
    """The name below `imagecensus.`, as `transforms.storage.gcs`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imported_by(path: pathlib.Path) -> set[str]:
    """The project's modules that a module imports, anywhere in it, but for its type hints' sake."""
    found = set()
    tree = ast.parse(path.read_text("utf-8"))
    hints = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hints:
            continue
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in wanted:
            name = name.removeprefix(PREFIX)
            if name not in NAMES:
                name = name.rpartition(".")[0]
            if name in NAMES:
                found.add(name)
    return found


def floor_of(name: str) -> int:
    return max(i for i, floor in enumerate(FLOORS) if f"{name}.".startswith(f"{floor}."))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_downwards(path):
    name = name_of(path)
    upward = {other for other in imported_by(path) if floor_of(other) < floor_of(name)}
    assert not upward, f"{name} imports {', '.join(sorted(upward))} of a floor above it"


def test_no_module_imports_itself_through_others():
    imports = {name: imported_by(path) - {name} for name, path in NAMES.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join((*way[way.index(name) :], name))}"
        if name not in done:
            for other in sorted(imports[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(imports):
        visit(name, ())


def test_every_package_says_what_it_is_for_and_is_installed(monkeypatch):
    captured = {}
    monkeypatch.setattr("setuptools.setup", lambda **settings: captured.update(settings))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    packages = set(captured["packages"])
    for path in MODULES:
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path
            name = name_of(path)
            assert name == "jobs.api" or PREFIX + name in packages, f"{name} is not in setup.py"
        else:
            assert (path.parent / "__init__.py").is_file(), path


def test_every_command_is_a_file_of_jobs_and_every_file_a_command():
    from imagecensus.jobs.cli import COMMANDS

    files = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    # The way in, and the same `classify` started by a Dataflow Flex Template.
    assert files - {"__init__", "cli", "flex_template"} == set(COMMANDS)
    options = {path.stem for path in (ROOT / "jobs" / "options").glob("*.py")}
    assert options - {"__init__"} == set(COMMANDS)


def test_paths_named_in_documents_exist():
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    pattern = re.compile(r"`((?:jobs|transforms|model_export|tests|docs)/[\w./*<>-]+)`")
    for document in documents:
        for named in pattern.findall(document.read_text("utf-8")):
            shape = re.sub(r"<\w+>", "*", named).rstrip("/")
            assert any(ROOT.glob(shape)), f"{document.name} names {named}"


def test_files_named_in_the_makefile_exist():
    text = (ROOT / "Makefile").read_text("utf-8")
    for named in re.findall(r"\b((?:docs|tests)/[\w./-]+\.\w+)", text):
        assert (ROOT / named).is_file(), f"the Makefile names {named}"


# Tests of the whole, what they need, and the runners: packages have their tests elsewhere.
PACKAGES = sorted(path.parent.relative_to(ROOT) for path in MODULES if path.name == "__init__.py")
TESTS = sorted(
    path.relative_to(ROOT / "tests")
    for folder in FOLDERS
    for path in (ROOT / "tests" / folder).rglob("test_*.py")
)


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_every_package_has_its_folder_of_tests(package):
    assert any(path.parent == package for path in TESTS), f"tests/{package} has no tests"


def test_no_two_modules_of_tests_have_one_name():
    """Pytest imports each by its bare name, so that the second of a name cannot be collected."""
    own = ("conftest", "__init__", "__main__")  # of which Python and pytest keep one a folder
    stems = [path.stem for path in (ROOT / "tests").rglob("*.py") if path.stem not in own]
    assert [name for name, count in collections.Counter(stems).items() if count > 1] == []


@pytest.mark.parametrize("test", TESTS, ids=str)
def test_tests_lie_where_what_they_test_lies(test):
    """`test_M.py`, `test_M_more.py` and `test_PACKAGE_M.py` are of module M, others of a package.

    As no two can have one name, `test_web_fetch.py` is of `storage/web/fetch.py`.
    """
    package, subject = test.parent, test.stem.removeprefix("test_")
    assert package in PACKAGES, f"there is no package {package}"
    homes = {
        path.parent.relative_to(ROOT)
        for path in MODULES
        for name in (path.stem, f"{path.parent.name}_{path.stem}")
        if subject == name
    }
    assert package in homes or not homes, f"{test} tests what is in {', '.join(map(str, homes))}"
    if not homes:
        names = {path.stem for path in (ROOT / package).glob("*.py")}
        parts = subject.split("_")
        if names & {"_".join(parts[:end]) for end in range(1, len(parts))}:
            return
        own = ".".join(package.parts)
        # What is inside is asked for by what is around it, as decoders are by `decode_image`.
        around = {own, own.rpartition(".")[0] or own}
        imported = {name.rpartition(".")[0] for name in imported_by(ROOT / "tests" / test)}
        assert imported & around, f"{test} imports nothing of {package}"
