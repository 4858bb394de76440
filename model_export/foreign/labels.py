"""The labels of a classifier, as the tools that train classifiers write them.

Text: a label a line; numbered from 0 or 1 ("0 cat", "0,cat", "0: cat", "cat,0"), with a heading or
without;
or behind WordNet ids ("n02123045 tabby"); `names:` of a YAML file; `item { id: 1 name: "cat" }` of
TensorFlow's label maps. JSON, or the same as Python writes it: a list; {id: label}; {label: id}
(`class_indices` of Keras' generators); {id: [wnid, label]} (Keras' own index); a list of
{"id": ..., "name": ...}; or an object that holds one of them (Hugging Face's `id2label`, Teachable
Machine's `labels`, `categories` of COCO).
"""

from __future__ import annotations

import ast
import codecs
import collections
import contextlib
import csv
import itertools
import json
import re
import typing

from imagecensus.model_export.common.errors import UserError

_NUMBERED = re.compile(r"[\"']?(\d+)[\"']?\s*[\s:,;=|]\s*(\S.*)")
_NUMBER_BEHIND = re.compile(r"(.*\S)\s*[,;\t]\s*[\"']?(\d+)[\"']?")
_HEADING = re.compile(r"[\"']?\s*(id|index|class|label|names:|#)", re.I)
_PLAIN_HEADING = re.compile(r"[\"']?(class|label|name)(s|_?names?)?[\"']?", re.I)  # of a CSV file
_YAML_NAMES = re.compile(r"^names:[ \t]*(.*)$", re.M)
_YAML_ENTRY = re.compile(r"\s*(?:-\s+|(?=\s*\d+\s*:))(\S.*)")
_ITEM = re.compile(r"\bitem\s*\{([^{}]*)\}")
_FIELD = re.compile(r"(\w+)\s*:\s*(?:\"([^\"]*)\"|'([^']*)'|(\S+))")
_WORDNET = re.compile(r"(n\d{8})[\s,:;]+(\S.*)")
_WORDNET_ID = re.compile(r"n\d{8}")
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_HOLDERS = (
    "id2label", "labels", "class_names", "classes", "names", "class_indices", "label2id",
    "class_to_idx", "idx_to_class", "categories",
)  # fmt: skip
_NAMES = ("display_name", "name", "label", "class", "title")
_IDS = ("id", "class_id", "index", "class_index")


def read_labels(path: str) -> list[str]:
    """The labels of a file, in the order of the network's outputs.

    Raises:
      UserError: it cannot be read, is empty, or its ids are not 0 to N-1.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{path}: labels cannot be read: {error.strerror}") from None
    return parse_labels(path, content)


def parse_labels(path: str, content: bytes) -> list[str]:
    """The labels of a file's content. Raises UserError, as `read_labels`, naming `path`."""
    try:
        text = _decode(content)
        if path.lower().endswith(".json") or text.lstrip()[:1] in ("{", "["):
            return labels_of_tree(path, _tree(text))
        if items := _ITEM.findall(text):
            return labels_of_tree(path, [_fields(item) for item in items])
        labels = _of_text(_yaml_names(text), is_table=path.lower().endswith((".csv", ".tsv")))
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except ValueError as error:
        raise UserError(f"{path}: labels cannot be read: {error}") from None
    return _distinct(path, labels)


def labels_of_tree(path: str, tree: typing.Any) -> list[str]:
    """The labels in what JSON says. Raises UserError, as `read_labels`, naming `path`."""
    try:
        return _distinct(path, _of_json(tree))
    except KeyError as error:
        raise UserError(f"{path}: no label for class id {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: labels cannot be read: {error}") from None


def _decode(content: bytes) -> str:
    for bom, encoding in _BOMS.items():
        if content.startswith(bom):
            return content.decode(encoding)
    return content.decode("utf-8")


def _tree(text: str) -> typing.Any:
    """What JSON says, or a literal of Python. Raises ValueError."""
    try:
        return json.loads(text)
    except ValueError as error:
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return ast.literal_eval(text.strip())
        raise error


def _fields(item: str) -> dict[str, str]:
    """The fields of an item of a label map."""
    return {name: "".join(values) for name, *values in _FIELD.findall(item)}


def _yaml_names(text: str) -> str:
    """The entries below `names:` of a YAML file, a line each; other text as it is."""
    found = _YAML_NAMES.search(text)
    if not found:
        return text
    inner = found[1].strip().strip("[]")
    if inner:
        quote = "'" if "'" in inner else '"'
        return "\n".join(next(csv.reader([inner], skipinitialspace=True, quotechar=quote)))
    below = map(_YAML_ENTRY.fullmatch, text[found.end() :].strip("\r\n").splitlines())
    entries = [entry[1].strip() for entry in itertools.takewhile(bool, below) if entry]
    return "\n".join(entry.strip("\"'") for entry in entries) or text


def _of_text(text: str, *, is_table: bool) -> list[typing.Any]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if is_table and _PLAIN_HEADING.fullmatch(lines[0] if lines else ""):
        lines = lines[1:]
    if not lines:
        return []
    if all(len(line) > 2 and line[0] == line[-1] == '"' for line in lines):
        lines = [line[1:-1] if '"' not in line[1:-1] else line for line in lines]
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    if len(lines) > 1 and all(matches[1:]) and _HEADING.match(lines[0]):
        matches, lines = matches[1:], lines[1:]
    lines = _without_numbers(lines, [(m[1], m[2].strip().strip("\"'")) for m in matches if m])
    behind = [match for match in map(_NUMBER_BEHIND.fullmatch, lines) if match]
    lines = _without_numbers(lines, [(match[2], match[1].strip("\"'")) for match in behind])
    named = [_WORDNET.fullmatch(line) for line in lines]
    if all(named):
        return [[match[1], match[2]] for match in named if match]
    return lines


def _without_numbers(lines: list[str], numbered: list[tuple[str, str]]) -> list[str]:
    """Lines in the order of their numbers and without them, where these count classes.

    Args:
      lines: without a heading; they stay as they are where a line has no number, a number comes
        twice, none is 0 or 1, or they are all that tells the lines apart ("1 euro", "2 euro").
      numbered: number and name of each line that has both.

    Raises:
      ValueError: a number is missing.
    """
    names = {int(number): name for number, name in numbered}
    ids = sorted(names)
    first = ids[0] if ids else 2
    if first > 1 or len(ids) < len(lines) or len(set(names.values())) == 1 < len(ids):
        return lines
    if missing := sorted(set(range(first, first + len(ids))) - set(ids)):
        raise ValueError(
            f"its lines are numbered, but none has the number {missing[0]}; number all classes from"
            " 0 on, or write a JSON list of labels if the numbers belong to them"
        )
    return [names[number] for number in ids]


def _of_json(tree: typing.Any) -> list[typing.Any]:
    if isinstance(tree, dict):
        for holder in _HOLDERS:
            if isinstance(tree.get(holder), (dict, list)):
                return _of_json(tree[holder])
        if tree and all(type(value) is int for value in tree.values()):
            tree = {str(class_id): label for label, class_id in tree.items()}
        by_name = {str(class_id): label for class_id, label in tree.items()}
        return [by_name[str(class_id)] for class_id in range(len(tree))]
    if tree and all(isinstance(entry, dict) for entry in tree):
        name = next((name for name in _NAMES if name in tree[0]), None)
        number = next((name for name in _IDS if name in tree[0]), None)
        if name is None:
            raise ValueError(f"no {', '.join(_NAMES)} in {tree[0]}")
        if number is None:
            return [entry[name] for entry in tree]
        by_id = {int(e[number]): next((e[n] for n in _NAMES if n in e), None) for e in tree}
        first = 1 if min(by_id) == 1 else 0
        return [by_id[class_id] for class_id in range(first, first + len(tree))]
    if not isinstance(tree, list):
        raise ValueError("expected a list or an object")
    return tree


def _distinct(path: str, labels: list[typing.Any]) -> list[str]:
    """Names, each once: what has a WordNet id beside it takes the id where names are equal."""
    if not labels:
        raise UserError(f"{path}: holds no label")
    pairs = []
    for label in labels:
        if isinstance(label, (list, tuple)):
            if len(label) != 2 or not _WORDNET_ID.fullmatch(str(label[0])):
                raise UserError(f"{path}: {label!r} is neither a label nor [WordNet id, label]")
            pairs.append((str(label[1]).strip(), f" ({label[0]})"))
        elif isinstance(label, (str, int)) and str(label).strip():
            pairs.append((str(label).strip(), ""))
        else:
            raise UserError(f"{path}: {label!r} is no label")
    count = collections.Counter(name for name, _ in pairs)
    return [name + more if count[name] > 1 else name for name, more in pairs]
