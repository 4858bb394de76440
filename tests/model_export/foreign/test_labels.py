"""Labels as the tools that train classifiers write them."""

import json

import pytest

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.foreign.labels import read_labels

THREE = ["cat", "dog", "red fox"]
KERAS_INDEX = {"0": ["n02123045", "cat"], "1": ["n02085620", "dog"], "2": ["n02119022", "red fox"]}


@pytest.mark.parametrize(
    "name, content",
    [
        ("plain.txt", b"cat\ndog\nred fox\n"),
        ("windows.txt", b"\xef\xbb\xbfcat\r\ndog\r\nred fox\r\n"),
        ("powershell.txt", "cat\r\ndog\r\nred fox\r\n".encode("utf-16")),
        ("teachable_machine.txt", b"0 cat\n1 dog\n2 red fox\n"),
        ("from_one.txt", b"1: cat\n2: dog\n3: red fox\n"),
        ("names.yaml", b"names:\n  0: cat\n  1: dog\n  2: red fox\n"),
        ("shuffled.txt", b"2 red fox\n0 cat\n1 dog\n"),
        ("table.csv", b"class_id,label\n0,cat\n1,dog\n2,red fox\n"),
        ("quoted.csv", b'"0","cat"\n"1","dog"\n"2","red fox"\n'),
        ("synsets.txt", b"n02123045 cat\nn02085620 dog\nn02119022 red fox\n"),
        ("numbered_synsets.txt", b"0 n02123045 cat\n1 n02085620 dog\n2 n02119022 red fox\n"),
        ("list.json", json.dumps(THREE).encode()),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(THREE).encode()),
        ("by_id.json", json.dumps(dict(enumerate(THREE))).encode()),
        ("keras.json", json.dumps(KERAS_INDEX).encode()),
        ("indices.json", b'{"dog": 1, "red fox": 2, "cat": 0}'),
        ("config.json", b'{"model_type": "vit", "id2label": {"1":"dog","0":"cat","2":"red fox"}}'),
        ("metadata.json", b'{"tfjsVersion": "1.3", "labels": ["cat", "dog", "red fox"]}'),
        (
            "records.json",
            b'[{"id":1,"name":"dog"},{"id":0,"name":"cat"},{"id":2,"name":"red fox"}]',
        ),
        ("inline.yaml", b"path: ../data\nnc: 3\nnames: ['cat', 'dog', 'red fox']\n"),
        ("plain.yaml", b"names: [cat, dog, red fox]\n"),
        ("dashes.yaml", b"nc: 3\nnames:\n- cat\n- dog\n- red fox\ntrain: a\n"),
        ("data.yaml", b"# c\npath: a\nnames:\n  0: cat\n  1: dog\n  2: 'red fox'\nnc: 3\n"),
        (
            "map.pbtxt",
            b"""item {\n  id: 1\n  name: 'cat'\n}\nitem {\n  name: 'dog'\n  id: 2\n}
            item { id: 3 name: "n02119022" display_name: "red fox" }""",
        ),
        ("python.txt", b"{0: 'cat', 1: 'dog',\n 2: 'red fox'}"),
        ("torch.json", b'{"class_to_idx": {"cat": 0, "dog": 1, "red fox": 2}}'),
        (
            "coco.json",
            json.dumps(
                {
                    "images": [],
                    "categories": [
                        {"id": i + 1, "name": name, "supercategory": "x"}
                        for i, name in enumerate(THREE)
                    ],
                }
            ).encode(),
        ),
        ("heading.csv", b"name\ncat\ndog\nred fox\n"),
        ("all_quoted.csv", b'"label"\r\n"cat"\r\n"dog"\r\n"red fox"\r\n'),
        ("reversed.csv", b'red fox,2\n"cat",0\ndog,1\n'),
        ("reversed.tsv", b"cat\t1\ndog\t2\nred fox\t3\n"),
        ("no_suffix", json.dumps(THREE).encode()),
    ],
)
def test_labels_of_many_tools(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_labels(str(tmp_path / name)) == THREE


def test_numbers_that_are_no_numbering_stay(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("0\n1\n2\n")
    assert read_labels(str(path)) == ["0", "1", "2"]
    path.write_text("7 up\n50 cent\n")
    assert read_labels(str(path)) == ["7 up", "50 cent"]
    path.write_text("2 euro\n1 euro\n")
    assert read_labels(str(path)) == ["2 euro", "1 euro"]


def test_equal_names_take_their_wordnet_ids(tmp_path):
    path = tmp_path / "i.json"
    path.write_text('{"0": ["n02012849", "crane"], "1": ["n03126707", "crane"]}')
    assert read_labels(str(path)) == ["crane (n02012849)", "crane (n03126707)"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"0": "a", "2": "b"}', "no label for class id '1'"),
        (b'{"a": 1, "b": 2}', "no label for class id '0'"),
        (b"0 cat\n1 dog\n3 fox\n", "none has the number 2; number all classes from 0 on, or write"),
        (b"id,label\n1,cat\n3,fox\n", "none has the number 2"),
        (b"cat,0\nfox,3\n", "none has the number 1"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"caf\xe9\n", "UTF-8"),
        (b"\n\n", "no label"),
        (b'{"0": ', "cannot be read"),
        (b"[[1, 2, 3]]", "neither a label"),
        (b"[1.5, {}]", "label"),
    ],
)
def test_what_are_no_labels_is_refused(tmp_path, content, message):
    path = tmp_path / "labels.json" if content[:1] in b"{[" else tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_labels(str(path))
    with pytest.raises(UserError, match="no label|cannot be read"):
        read_labels(str(tmp_path / "none.txt"))
