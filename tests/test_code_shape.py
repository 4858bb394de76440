"""The shape of the code: short functions, calls that name their arguments, records by keyword.

What is not there yet is listed. A list may only shrink: what is listed and has become right fails
too, until it is taken off.
"""

from __future__ import annotations

import ast
import functools
import io
import pathlib
import tokenize
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("jobs", "transforms", "model_export")
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}

MAX_LINES = 60
MAX_POSITIONAL = 5

LONG_FUNCTIONS: set[tuple[str, str]] = set()
LONG_CALLS: set[tuple[str, str]] = set()
LONG_SIGNATURES: set[tuple[str, str]] = set()
POSITIONAL_DATACLASSES: set[tuple[str, str]] = set()

# What takes so long to import that it waits until it is needed. (A decoder process starts in half
# the time without Arrow.) Our own modules that bring none of these are imported at the top.
LATE = {
    "apache_beam", "duckdb", "jinja2", "keras", "matplotlib", "obstore", "openvino", "pyarrow",
    "sklearn", "starlette", "tensorflow", "urllib3",
}  # fmt: skip

_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(text: str) -> set[int]:
    """Numbers of the lines that hold code: no blank ones, comments or docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _Function | ast.ClassDef | ast.Module) and ast.get_docstring(node):
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def long_functions(name: str) -> set[tuple[str, str]]:
    lines = code_lines(SOURCES[name])
    return {
        (name, node.name)
        for node in ast.walk(TREES[name])
        if isinstance(node, _Function)
        and len(lines.intersection(range(node.lineno, node.end_lineno + 1))) > MAX_LINES
    }


OWN = {
    node.name
    for tree in TREES.values()
    for node in ast.walk(tree)
    if isinstance(node, _Function | ast.ClassDef)
}


def foreign_names(tree: ast.Module) -> set[str]:
    """What a module imports of others: their functions may be called as they want to be."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("imagecensus"):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def called(function: ast.expr) -> tuple[str, str]:
    """The name a call begins with and the name it ends with: `a.b.c()` is (a, c)."""
    last = function.attr if isinstance(function, ast.Attribute) else ""
    while isinstance(function, ast.Attribute):
        function = function.value
    first = function.id if isinstance(function, ast.Name) else ""
    return first, last or first


def long_calls(name: str) -> set[tuple[str, str]]:
    foreign = foreign_names(TREES[name])
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and len(node.args) > MAX_POSITIONAL:
            first, last = called(node.func)
            if last in OWN and first not in foreign:
                found.add((name, last))
    return found


def long_signatures(name: str) -> set[tuple[str, str]]:
    """Functions that may be called with too many arguments by position: by `*arguments`, too."""
    return {
        (name, node.name)
        for node in ast.walk(TREES[name])
        if isinstance(node, _Function)
        and len([a for a in node.args.posonlyargs + node.args.args if a.arg not in ("self", "cls")])
        > MAX_POSITIONAL
    }


def positional_dataclasses(name: str) -> set[tuple[str, str]]:
    return {
        (name, node.name)
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ClassDef)
        for decorator in map(ast.unparse, node.decorator_list)
        if decorator.startswith(("dataclass", "dataclasses.dataclass"))
        and "kw_only=True" not in decorator
    }


def check(found: set[tuple[str, str]], listed: set[tuple[str, str]], rule: str) -> None:
    assert not found - listed, f"{rule}: {sorted(found - listed)}"
    assert not listed - found, f"take these off the list, they are right: {sorted(listed - found)}"


def test_functions_are_short():
    found = {one for name in SOURCES for one in long_functions(name)}
    check(found, LONG_FUNCTIONS, f"a function has at most {MAX_LINES} lines of code; split")


def test_calls_name_their_arguments():
    found = {one for name in SOURCES for one in long_calls(name)}
    check(found, LONG_CALLS, f"at most {MAX_POSITIONAL} arguments by position; name the others")


def test_functions_take_few_arguments_by_position():
    found = {one for name in SOURCES for one in long_signatures(name)}
    rule = f"at most {MAX_POSITIONAL} arguments by position; put `*` before the others"
    check(found, LONG_SIGNATURES, rule)


def test_dataclasses_are_made_by_keyword():
    found = {one for name in SOURCES for one in positional_dataclasses(name)}
    check(found, POSITIONAL_DATACLASSES, "write @dataclass(..., kw_only=True)")


def imports_of(node: ast.AST, late: bool = False) -> Iterator[tuple[bool, int, str]]:
    """Each import below a node: whether it is inside a function, its line and the module."""
    if isinstance(node, ast.Import):
        yield from ((late, node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ((late, node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
    elif isinstance(node, ast.stmt | ast.Module | ast.ExceptHandler):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        for child in ast.iter_child_nodes(node):
            yield from imports_of(child, late or isinstance(node, _Function))


def file_of(module: str) -> str:
    """The file of one of our modules, or of the module that a name is in; "": it is not ours."""
    if not module.startswith("imagecensus."):
        return ""
    path = module.removeprefix("imagecensus.").replace(".", "/")
    names = (f"{path}.py", f"{path}/__init__.py", f"{path.rpartition('/')[0]}.py")
    return next((name for name in names if name in SOURCES), "")


@functools.cache
def brought_by(name: str) -> set[str]:
    """The packages that importing one of our files imports."""
    seen, todo, packages = set(), [name], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for late, _, module in imports_of(TREES[name]):
            if late:
                continue
            todo += [file_of(module)] if file_of(module) else []
            packages.add(module.partition(".")[0])
    return packages


def test_own_imports_are_at_the_top():
    early = [
        f"{name}:{line}: {module}"
        for name in SOURCES
        for late, line, module in imports_of(TREES[name])
        if late
        and file_of(module)
        and not module.partition("common.")[2].startswith("quiet_")  # imports TensorFlow, quietly
        and not LATE & (brought_by(file_of(module)) - brought_by(name))
    ]
    assert not early, f"import these at the top of their files: {early}"


def test_what_is_counted(monkeypatch):
    body = "\n".join(f"    x = {i}  # of many" for i in range(MAX_LINES))
    docstring = '    """Says\n\n    much.\n    """\n\n    # why'
    text = f"def f():\n{docstring}\n{body}\n    return g(*x, 1, 2, 3, 4, 5)\n"
    assert len(code_lines(text)) == MAX_LINES + 2
    monkeypatch.setitem(SOURCES, "m.py", text + "import n\nn.f(1, 2, 3, 4, 5, 6)\n")
    monkeypatch.setitem(TREES, "m.py", ast.parse(SOURCES["m.py"]))
    monkeypatch.setattr("test_code_shape.OWN", {"f", "g"})
    assert long_functions("m.py") == {("m.py", "f")}
    assert long_calls("m.py") == {("m.py", "g")}
    for signature, found in (("a, b, c, d, e, f", {("m.py", "h")}), ("a, b, c, d, e, *, f", set())):
        monkeypatch.setitem(TREES, "m.py", ast.parse(f"def h({signature}): pass"))
        assert long_signatures("m.py") == found
