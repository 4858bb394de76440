"""Images in columns of Parquet, and what goes along with them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from listings import FILES, contents, found_in, listed
from packing import pack

from imagecensus.transforms.list_images import list_images, passthrough_columns


def test_columns_go_along_with_tables_that_are_named(tmp_path):
    for i in range(2):
        pack("hf.parquet", FILES[i * 3 : i * 3 + 3], tmp_path / f"{i}.parquet")
        pack("tfrecord", FILES[i * 3 : i * 3 + 3], tmp_path / f"x.tfrecord-0000{i}-of-00002")
    inputs = (str(tmp_path / "*.parquet"), str(tmp_path / "x.tfrecord*"))
    assert passthrough_columns(inputs) == pa.schema(
        {
            "manifest_label": pa.int64(),
            "image_class_label": pa.int64(),
            "image_filename": pa.string(),
        }
    )
    rows = listed(*inputs)
    assert [row.get("manifest_label") for row in rows] == [0, 1, 2, 0, 1, 2] + [None] * 6
    assert [row.get("image_filename") for row in rows][6:] == [name for name, _ in FILES[:6]]
    # Within a folder they are images only: its columns are not known before it is walked.
    assert passthrough_columns((str(tmp_path),)) == pa.schema([])
    assert set(listed(tmp_path)[0]) == {"uri", "size", "etag_or_mtime", "container", "member"}


def test_a_parquet_file_is_a_manifest_unless_it_holds_images(tmp_path):
    path = str(tmp_path / "a.parquet")
    (tmp_path / "x.jpg").write_bytes(b"x")
    pq.write_table(pa.table({"uri": ["x.jpg"], "thumbnail": [b"t"]}), path)
    assert [row["uri"] for row in listed(path)] == [str(tmp_path / "x.jpg")]
    assert contents(path, image_column="thumbnail") == {"0": b"t"}
    missing = {"bytes": None, "path": "elsewhere.jpg"}
    pq.write_table(pa.table({"image": [{"bytes": b"b", "path": "b.jpg"}, missing, None]}), path)
    assert contents(path) == {"0": b"b", "1": "not_found", "2": "not_found"}
    # Of a column that is not there, the archive itself is the row.
    assert contents(str(tmp_path / "*.parquet"), image_column="nope") == {path: "read_error"}


TWO = [b"one", b"two"]


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("plain", pa.array(TWO, pa.binary())),
        ("large", pa.array(TWO, pa.large_binary())),
        ("view", pa.array(TWO, pa.binary_view())),
        ("numbers", pa.array([list(b) for b in TWO], pa.list_(pa.uint8()))),
        ("signed numbers", pa.array([[n - 256 if n > 127 else n for n in b] for b in TWO],
                                    pa.large_list(pa.int8()))),
        ("lists of numbers", pa.array([[list(b)] for b in TWO], pa.list_(pa.list_(pa.uint8())))),
        ("fixed", pa.array(TWO, pa.binary(3))),
        ("dictionary", pa.array(TWO).dictionary_encode()),
        ("struct", pa.array([{"bytes": b, "path": None} for b in TWO], STRUCT)),
        ("large struct", pa.array([{"bytes": b} for b in TWO],
                                  pa.struct([("bytes", pa.large_binary())]))),
        ("nested", pa.array([{"image": {"bytes": b}} for b in TWO])),
        ("other field", pa.array([{"format": "JPEG", "content": b} for b in TWO])),
        ("list", pa.array([[b] for b in TWO])),
        ("list of structs", pa.array([[{"bytes": b, "path": "x"}] for b in TWO], pa.list_(STRUCT))),
        ("large list", pa.array([[b] for b in TWO], pa.large_list(pa.large_binary()))),
        ("struct of lists", pa.array([{"frames": [b]} for b in TWO])),
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["image", "odd.name"])
def test_images_in_columns_of_any_type(tmp_path, name, values, column):
    table = pa.table({"n": [1, 2], column: values})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    assert found_in(tmp_path / "a.parquet") == {"0": b"one", "1": b"two"}
    assert found_in(tmp_path / "a.parquet", image_column=column) == {"0": b"one", "1": b"two"}


def test_several_images_in_a_row_are_a_row_each(tmp_path):
    lists = pa.array([[b"a", b"b", b"c"], [], None, [b"d", None]])
    pq.write_table(pa.table({"image": lists, "n": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    found = found_in(tmp_path / "a.parquet")
    assert {k: v for k, v in found.items() if isinstance(v, bytes)} == {
        "0": b"a", "0.1": b"b", "0.2": b"c", "3": b"d",
    }  # fmt: skip
    assert [k for k, v in found.items() if "holds no bytes" in v.__repr__()] == ["1", "2", "3.1"]
    rows = [r for b in list_images((str(tmp_path / "a.parquet"),)) for r in b.to_pylist()]
    assert [row["n"] for row in rows] == [1, 1, 1, 2, 3, 4, 4]


def test_images_in_a_map_are_a_row_each(tmp_path):
    images = pa.array([[("front", b"f"), ("back", b"b")], None], pa.map_(pa.string(), pa.binary()))
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    found = found_in(tmp_path / "a.parquet")
    assert (found.pop("0"), found.pop("0.1")) == (b"f", b"b")
    assert found == {"1": "not_found: the row holds no bytes"}


def test_a_row_with_a_path_in_place_of_bytes_says_so(tmp_path):
    (tmp_path / "b.jpg").write_bytes(b"never read")  # an archive leads to nothing outside of it
    some = [{"bytes": b"a", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None]
    for name, values in (
        ("a", pa.array(some, STRUCT)),
        ("b", pa.array([some], pa.list_(STRUCT))),
        ("c", pa.array([{"left": one} for one in some], pa.struct([("left", STRUCT)]))),
    ):
        pq.write_table(pa.table({"image": values}), tmp_path / f"{name}.parquet")
        first, second, third = found_in(tmp_path / f"{name}.parquet").values()
        assert first == b"a" and third == "not_found: the row holds no bytes"
        expected = "not_found: the row holds no bytes, only the path 'b.jpg': name it in a list"
        assert second == expected


def test_a_field_is_named_with_dots(tmp_path):
    values = pa.array([{"left": {"bytes": b"l"}, "right": {"bytes": b"r"}}])
    pq.write_table(pa.table({"pair": values, "uri": ["x"]}), tmp_path / "a.parquet")
    assert found_in(tmp_path / "a.parquet", image_column="pair.right") == {"0": b"r"}
    assert found_in(tmp_path / "a.parquet", image_column="pair.left.bytes") == {"0": b"l"}


@pytest.mark.parametrize(
    "feature", [{"_type": "Image"}, [{"_type": "Image"}],
                {"_type": "Sequence", "feature": {"_type": "Image"}}]
)  # fmt: skip
def test_what_hugging_face_says_is_an_image_is_one(tmp_path, feature):
    features = {"image": {"_type": "Value", "dtype": "binary"}, "scan": feature,
                "sound": {"_type": "Audio"}}  # fmt: skip
    one = pa.array([{"bytes": b"scan", "path": None}], STRUCT)
    scan = pa.array([[{"bytes": b"scan", "path": None}]], pa.list_(STRUCT))
    table = pa.table(
        {"image": [b"mask"], "sound": one, "scan": one if "Image" in str(feature)[:20] else scan}
    )
    said = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": said})
    pq.write_table(table, tmp_path / "a.parquet")
    assert found_in(tmp_path / "a.parquet") == {"0": b"scan"}
    for broken in ("{", "[]", '{"info": 3}'):
        pq.write_table(
            table.replace_schema_metadata({"huggingface": broken}), tmp_path / "b.parquet"
        )
        assert found_in(tmp_path / "b.parquet") == {"0": b"mask"}
