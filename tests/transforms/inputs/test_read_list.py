"""The one reader of lists: dialects, encodings, packings, bad lines, types, names, versions."""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from listings import listed
from packing import pack
from samples import make_photos

from imagecensus.transforms.inputs.files import InputError
from imagecensus.transforms.inputs.locate import locate
from imagecensus.transforms.inputs.read_list import read_rows, scan
from imagecensus.transforms.list_images import list_images


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def failures(rows):
    said = {row["uri"].rpartition("/")[2]: json.loads(row["member"] or "[0]") for row in rows}
    return {name: why[1:] for name, why in said.items() if why[0] == "failed"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_dialect_and_marked_encoding_gives_the_same_rows(tmp_path, delimiter, encoding, end):
    text = end.join(["Path,Ort", 'a.jpg,"Köln, Dom"', "b.jpg,雪"]).replace(",", delimiter)
    rows = listed(write(tmp_path / "list.csv", text.replace("Köln" + delimiter, "Köln,"), encoding))
    assert [row["uri"] for row in rows] == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]
    assert [row["Ort"] for row in rows] == ["Köln, Dom", "雪"]


def test_mixed_ends_of_lines_blank_lines_and_empty_rows_are_no_failures(tmp_path):
    text = "path,site\r\na.jpg,x\n\r\nb.jpg,y\r\n,\r\n,\r\n"
    rows = listed(write(tmp_path / "list.csv", text))
    assert [row["site"] for row in rows] == ["x", "y"] and not failures(rows)


def test_a_bad_line_costs_itself_and_is_named_by_its_number(tmp_path):
    lines = [
        "path,site,note", "a.jpg,x,1", 'b.jpg,"open,2', 'c.jpg,"two\nlines",3', "d.jpg,x",
        "e.jpg,x,5,six", 'f.jpg,"q"uote,6', ",x,7", "g.jpg,x,8,", "h.jpg,x,9",
    ]  # fmt: skip
    rows = listed(write(tmp_path / "list.csv", "\n".join(lines) + "\n"))
    good = [row["uri"].rpartition("/")[2] for row in rows if not row["member"]]
    assert good == ["a.jpg", "c.jpg", "g.jpg", "h.jpg"]
    assert failures(rows) == {
        "list.csv#line=3": [
            "read_error",
            "line 3 of the list has a quote that is neither doubled nor at the end of its field",
        ],
        "list.csv#line=6": ["read_error", "line 6 of the list has 2 fields, the first line 3"],
        "list.csv#line=7": ["read_error", "line 7 of the list has 4 fields, the first line 3"],
        "list.csv#line=8": [
            "read_error",
            "line 8 of the list has a quote that is neither doubled nor at the end of its field",
        ],
        "list.csv#line=9": ["not_found", "line 9 of the list names no image"],
    }
    assert [row["site"] for row in rows if not row["member"]] == ["x", "two\nlines", "x", "x"]


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(tmp_path):
    lines = ["path,n", *(f"{i}.jpg,{i}" for i in range(3000))]
    lines[5] = '4.jpg,"4'
    rows = listed(write(tmp_path / "list.csv", "\n".join(lines)))
    assert len(rows) == 3000 and list(failures(rows)) == ["list.csv#line=6"]


def test_one_line_of_another_encoding_is_a_row_and_a_whole_list_of_one_is_refused(tmp_path):
    mixed = "path,site\na.jpg,Köln\n".encode() + "b.jpg,Köln\n".encode("latin-1")
    assert list(failures(listed(write(tmp_path / "mixed.csv", mixed)))) == ["mixed.csv#line=3"]
    latin = "path,site\na.jpg,x\nb.jpg,Köln\n".encode("latin-1")
    with pytest.raises(
        InputError, match=r"latin\.csv: line 3 is not UTF-8.*save the list as UTF-8"
    ):
        listed(write(tmp_path / "latin.csv", latin))


def test_lists_that_no_line_fits_or_that_have_no_line_are_refused(tmp_path):
    with pytest.raises(InputError, match="line 2 has 3 fields, the first line 2"):
        listed(write(tmp_path / "r.csv", '"path","site"\n"1","a.jpg","x"\n"2","b.jpg","y"\n'))
    with pytest.raises(InputError, match=r"empty\.csv: is empty"):
        listed(write(tmp_path / "empty.csv", ""))
    with pytest.raises(InputError, match="a spreadsheet is not read; save it as CSV UTF-8"):
        listed(write(tmp_path / "list.xlsx", "PK"))


def test_names_with_commas_and_bars_in_a_list_of_one_column_are_whole(tmp_path):
    rows = listed(write(tmp_path / "list.csv", "path\na,b.jpg\n1|2.jpg\n"))
    assert [row["uri"] for row in rows] == [f"{tmp_path}/a,b.jpg", f"{tmp_path}/1|2.jpg"]


def test_repeated_headers_of_joined_lists_are_no_images_and_other_headers_are_refused(tmp_path):
    rows = listed(write(tmp_path / "same.csv", "path,n\na.jpg,1\nPath,n\nb.jpg,2\n"))
    assert [row["uri"][-5:] for row in rows] == ["a.jpg", "b.jpg"]
    assert [row["n"] for row in rows] == [1, 2]
    for second in ("n,path", "path,n,more", "path,other"):
        with pytest.raises(InputError, match="line 3 is a second header"):
            listed(write(tmp_path / "other.csv", f"path,n\na.jpg,1\n{second}\nb.jpg,2\n"))
    # The word in another column makes no header.
    rows = listed(write(tmp_path / "word.csv", "kind,file\nfile,a.jpg\nfile,b.jpg\n"))
    assert [row["kind"] for row in rows] == ["file", "file"]


@pytest.mark.parametrize("packer", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz"])
def test_packed_lists_are_read_by_their_content(tmp_path, packer, name):
    paths = make_photos(tmp_path, 2)
    write(tmp_path / name, packer(b"path\n00000.jpg\n00001.jpg\n"))
    assert [row["uri"] for row in listed(tmp_path / name)] == paths


def test_a_packed_list_that_is_cut_is_refused(tmp_path):
    text = "path\n" + "".join(f"{np.random.default_rng(i).random()}.jpg\n" for i in range(3000))
    write(tmp_path / "list.csv.gz", gzip.compress(text.encode())[:-900])
    with pytest.raises(InputError, match=r"list\.csv\.gz: is cut short or damaged"):
        listed(tmp_path / "list.csv.gz")


def test_json_of_all_usual_shapes(tmp_path):
    entries = [{"path": "a.jpg", "n": 1.50, "tags": ["x", 2]}, {"path": "b.jpg", "ok": True}]
    texts = {
        "array.json": json.dumps(entries),
        "coco.json": json.dumps({"info": {}, "images": entries}),
        "lines.json": "\n".join(map(json.dumps, entries)),
        "lines.jsonl": "\n\n".join(map(json.dumps, entries)),
    }
    for name, text in texts.items():
        rows = listed(write(tmp_path / name, text))
        assert [row["uri"][-5:] for row in rows] == ["a.jpg", "b.jpg"], name
        assert [row["n"] for row in rows] == [1.5, None], name
        assert [row["tags"] for row in rows] == ['["x", 2]', None], name
        assert [row["ok"] for row in rows] == [None, True], name
    write(tmp_path / "bad.jsonl", '{"path": "a.jpg"}\n{"path"\n[1]\n{"path": "b.jpg"}\n')
    rows = listed(tmp_path / "bad.jsonl")
    assert list(failures(rows)) == ["bad.jsonl#line=2", "bad.jsonl#line=3"] and len(rows) == 4
    write(tmp_path / "names.json", '["a.jpg", "b.jpg"]')
    assert len(listed(tmp_path / "names.json")) == 2
    with pytest.raises(InputError, match="holds no JSON objects|cannot be read"):
        listed(write(tmp_path / "none.json", "{}"))


def test_inventories_pin_size_and_version_without_a_request(tmp_path):
    text = "bucket,name,size,generation\nphotos,a/1.jpg,123,987\nphotos,2.jpg,,\n"
    second, first = listed(write(tmp_path / "inventory.csv", text))
    assert [first[name] for name in ("uri", "size")] == ["gs://photos/a/1.jpg", 123]
    assert (first["etag_or_mtime"], second["uri"]) == ("987", "gs://photos/2.jpg")
    rows = listed(write(tmp_path / "s3.csv", 'Bucket,Key,Size,ETag\nb,k.jpg,5,"""abc"""\n'))
    assert [rows[0][name] for name in ("uri", "etag_or_mtime")] == ["s3://b/k.jpg", "abc"]
    text = 'url,etag\nhttps://h.org/a.jpg,"""abc"""\nhttps://h.org/i/full/max/0/default.jpg,abc\n'
    rows = listed(write(tmp_path / "web.csv", text + 'https://h.org/b.jpg,"W/""x"""\na.jpg,abc\n'))
    assert [row["etag_or_mtime"] for row in rows] == ["abc", "", 'W/"x"', ""]
    assert locate("a.jpg", "gs://b/lists", 5, "7") == ("gs://b/lists/a.jpg", 5, "7")


def test_a_bare_location_among_objects_costs_itself(tmp_path):
    make_photos(tmp_path, 2)
    lines = ['{"path": "00000.jpg", "n": 1}', '"00001.jpg"', '{"path": "00001.jpg", "n": 2}']
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    rows = [r for batch in list_images((str(tmp_path / "list.jsonl"),)) for r in batch.to_pylist()]
    assert [row["n"] for row in rows] == [1, None, 2]
    assert "line 2 of the list is no JSON object" in rows[1]["member"]
    (tmp_path / "list.jsonl").write_text("\n".join([lines[1], '"00000.jpg"']))
    assert [row["size"] > 0 for row in listed(tmp_path / "list.jsonl")] == [True, True]


def test_fields_beside_a_location_are_not_of_its_name(tmp_path):
    for name in ("a.jpg", "b 7", "b"):
        (tmp_path / name).write_bytes(b"x")
    lines = ["a.jpg 3", "b 7", "0\t1.0\ta.jpg", "a.jpg\tcat", "b 8", "c 8", "b c"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    rows = [r for batch in list_images((str(tmp_path / "list.txt"),)) for r in batch.to_pylist()]
    found = [os.path.relpath(row["uri"], tmp_path) for row in rows]
    assert found == ["a.jpg", "b 7", "a.jpg", "a.jpg", "b", "c 8", "b c"]


@pytest.mark.parametrize(
    "name", ["filepath", "File Path", "image path ", "IMG_PATH", "image.name", "fname"]
)
def test_usual_names_of_the_column_of_locations_are_found_as_people_write_them(tmp_path, name):
    rows = listed(write(tmp_path / "list.csv", f"id,{name},label\n1,a.jpg,x\n"))
    assert [(row["uri"], row["manifest_label"]) for row in rows] == [(f"{tmp_path}/a.jpg", "x")]


def test_what_is_data_and_no_location_is_a_row_of_its_line(tmp_path):
    text = f"image,n\na.jpg,1\ndata:image/jpeg;base64,/9j/4AAQ,2\n{'/9j/4AAQ' * 4000},3\n"
    text += f"{'/9j/4AAQ' * 50},4\n"
    rows = listed(write(tmp_path / "list.csv", text.replace("base64,/", "base64;/")))
    assert [row["uri"].rpartition("/")[2] for row in rows] == [
        "a.jpg", "list.csv#line=3", "list.csv#line=4", "list.csv#line=5",
    ]  # fmt: skip
    assert {status for status, _ in failures(rows).values()} == {"unsupported_format"}


def test_a_blank_behind_each_delimiter_is_of_no_field(tmp_path):
    text = 'path, label, n\na.jpg, "x, y", 1\nb.jpg, z ,2\nc.jpg, "two\nlines", 3\n'
    rows = listed(write(tmp_path / "list.csv", text))
    assert not failures(rows)
    assert [(row["manifest_label"], row["n"]) for row in rows] == [
        ("x, y", 1), ("z ", 2), ("two\nlines", 3),
    ]  # fmt: skip
    rows = listed(write(tmp_path / "list.csv", "path,label\na.jpg, x\n"))
    assert rows[0]["manifest_label"] == " x"  # the first line has none


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_uris_of_a_table_are_taken_back_members_too(tmp_path, kind):
    (path,) = make_photos(tmp_path, 1)
    with open(path, "rb") as file:
        content = file.read()
    odd = os.path.join(os.fsencode(tmp_path), b"caf\xe9." + kind.encode())
    archive = pack(kind, [("x#1.jpg", content), ("b.jpg", content)], tmp_path / f"a.{kind}")
    os.link(archive, odd)
    rows = listed(tmp_path)
    by_uri = {row["uri"]: row for row in rows}
    assert len(rows) == 5
    write(tmp_path / "list.txt", "\n".join(reversed(by_uri)) + f"\na.{kind}#gone.jpg\n")
    again = listed(tmp_path / "list.txt")
    assert {row["uri"]: row for row in again[:5]} == by_uri
    assert not failures(again[:5])
    assert failures(again[5:]) == {
        f"a.{kind}#gone.jpg": ["not_found", "the archive has no such member"]
    }


def test_lists_come_through_pipes_and_without_a_suffix(tmp_path):
    paths = make_photos(tmp_path, 2)
    write(tmp_path / "mylist", "00000.jpg\n00001.jpg\n")
    assert [row["uri"] for row in listed(tmp_path / "mylist")] == paths
    code = (
        "from imagecensus.transforms.list_images import *\n"
        "from imagecensus.transforms.inputs.check import check_inputs\n"
        "print(check_inputs(('-',)), passthrough_columns(('-',)).names,"
        " [r['uri'] for b in list_images(('-',)) for r in b.to_pylist()])"
    )
    for text, names in (
        ("00000.jpg\n00001.jpg\n", []),
        ("path;n\n00000.jpg;1\n00001.jpg;2\n", ["n"]),
    ):
        found = subprocess.run(
            [sys.executable, "-c", code], input=text, capture_output=True, text=True, cwd=tmp_path,
            check=True,
        )  # fmt: skip
        assert found.stdout.strip() == f"[] {names} {paths}"


def test_rows_are_the_same_whatever_the_quoting(tmp_path):
    """Chunks of lines that the csv module reads at once, and lines read one by one."""
    plain = [f"{i}.jpg,{i}" for i in range(2500)]
    quoted = [f'"{i}.jpg","{i}"' if i % 3 else plain[i] for i in range(2500)]
    some = [list(read_rows(scan(str(write(tmp_path / f"{n}.csv", "path,n\n" + "\n".join(lines))))))
            for n, lines in (("plain", plain), ("quoted", quoted))]  # fmt: skip
    assert [rows.values.to_pydict() for rows in some[0]] == [r.values.to_pydict() for r in some[1]]


@pytest.mark.parametrize("orient", ["columns", "records", "split", "list"])
def test_json_as_pandas_writes_it(tmp_path, orient):
    frame = pd.DataFrame({"site": ["x", "y"], "path": ["a.jpg", "b.jpg"]}, index=[7, 9])
    wrong = orient == "list"  # of `to_dict`, written by other tools
    text = json.dumps(frame.to_dict("list")) if wrong else frame.to_json(orient=orient)
    rows = listed(write(tmp_path / "list.json", text))
    assert [(row["uri"], row["site"]) for row in rows] == [
        (f"{tmp_path}/a.jpg", "x"), (f"{tmp_path}/b.jpg", "y")
    ]  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_table_in_a_text_file_is_one(tmp_path, delimiter):
    text = "path,site\na.jpg,x\n".replace(",", delimiter)
    (row,) = listed(write(tmp_path / "list.txt", text))
    assert (row["uri"], row["site"]) == (f"{tmp_path}/a.jpg", "x")


def test_a_table_as_spreadsheets_save_it_as_unicode_text_is_one(tmp_path):
    text = "path\tsite\r\na.jpg\tx\r\n".encode("utf-16")
    (row,) = listed(write(tmp_path / "list.txt", text))
    assert (row["uri"], row["site"]) == (f"{tmp_path}/a.jpg", "x")


def test_a_name_of_a_column_above_a_text_list_is_no_image_unless_a_file_has_it(tmp_path):
    make_photos(tmp_path, 1)
    path = write(tmp_path / "list.txt", "Image_Path\n00000.jpg\n")
    assert [row["uri"] for row in listed(path)] == [f"{tmp_path}/00000.jpg"]
    (tmp_path / "Image_Path").write_bytes(b"x")
    assert len(listed(path)) == 2


def test_a_byte_order_mark_within_joined_lists_is_of_no_name(tmp_path):
    make_photos(tmp_path, 2)
    path = write(tmp_path / "list.txt", "\ufeff00000.jpg\n\ufeff00001.jpg\n")
    assert [row["size"] > 0 for row in listed(path)] == [True, True]


def test_names_between_nuls_may_have_ends_of_lines_in_them(tmp_path):
    names = ["a\nb.jpg", "c.jpg", "\n"]
    path = write(tmp_path / "list.txt", "".join(f"{tmp_path}/{name}\0" for name in names))
    assert [row["uri"] for row in listed(path)] == [f"{tmp_path}/{name}" for name in names]
    path = write(tmp_path / "list.txt", "a.jpg\0b.jpg\n")
    assert [row["uri"] for row in listed(path)] == [f"{tmp_path}/{name}.jpg" for name in "ab"]


def test_half_characters_in_json_cost_their_line(tmp_path):
    lines = [r'{"path": "a.jpg", "n": "\ud83d\ude00"}', r'{"path": "\udce9.jpg"}', r'{"\ud800": 1}']
    rows = listed(write(tmp_path / "list.jsonl", "\n".join(lines)))
    why = [
        "read_error",
        r"line 2 of the list has half a character, as \ud800 is without a second one",
    ]
    assert rows[0]["n"] == "\N{GRINNING FACE}"
    assert failures(rows)["list.jsonl#line=2"] == why
    assert len(failures(rows)) == 2
    text = '[{"path": "a.jpg"}, {"path": "\\ud800"}]'
    assert len(failures(listed(write(tmp_path / "list.json", text, "utf-16")))) == 1


def test_a_file_uri_that_is_not_utf8_is_not_found(tmp_path):
    (row,) = listed(write(tmp_path / "list.txt", b"file:///nowhere/caf\xe9.jpg\n"))
    assert (row["uri"], row["size"]) == ("file:///nowhere/caf%E9.jpg", -1)


def test_a_field_that_is_too_long_is_called_so(tmp_path):
    rows = listed(write(tmp_path / "list.csv", f"path,x\na.jpg,{'a' * (1 << 24)}b\nb.jpg,c\n"))
    why = "line 2 of the list has a field of more than 16,777,216 characters"
    assert failures(rows) == {"list.csv#line=2": ["read_error", why]}


def test_json_of_columns_whose_names_are_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no JSON object; write one JSON object per image"):
        listed(write(tmp_path / "list.json", '{"columns": [["path"]], "data": [["a.jpg"]]}'))


@pytest.mark.parametrize("content", [b"PK\x03\x04\x14\0", b"\xd0\xcf\x11\xe0\xa1\xb1"])
@pytest.mark.parametrize("name", ["list.csv", "list.txt", "list.json"])
def test_a_spreadsheet_under_the_name_of_a_list_is_called_so(tmp_path, content, name):
    with pytest.raises(InputError, match="is a spreadsheet or an archive; save it as CSV UTF-8"):
        listed(write(tmp_path / name, content + bytes(500)))


def test_a_column_of_lists_names_no_files(tmp_path):
    pq.write_table(pa.table({"path": [["a.jpg", "b.jpg"]]}), tmp_path / "list.parquet")
    with pytest.raises(InputError, match=r"'path' holds list<.*> and no locations; name another"):
        listed(tmp_path / "list.parquet")


def test_parquet_with_several_columns_of_images_names_the_flag(tmp_path):
    pq.write_table(pa.table({"left": [b"a"], "right": [b"b"]}), tmp_path / "pairs.parquet")
    with pytest.raises(InputError, match="--uri-column, or a column of images with --image-column"):
        listed(tmp_path / "pairs.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "none.parquet")
    with pytest.raises(InputError, match="--uri-column$"):
        listed(tmp_path / "none.parquet")
