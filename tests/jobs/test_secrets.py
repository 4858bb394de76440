"""Secrets planted wherever a user may put one are found nowhere in what a run writes."""

import json
import pathlib

from samples import make_photos

from imagecensus.jobs import cli

SECRET = "s3cr3tV4lu3XYZ"


def test_planted_secrets_are_nowhere(tmp_path, tiny_model, capfd, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    [photo] = make_photos(tmp_path / "photos", 1)
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        f"uri,source\n{photo},https://storage.googleapis.com/c.jpg?X-Goog-Signature={SECRET}\n"
        f"https://storage.googleapis.com/b/a.jpg?X-Goog-Signature={SECRET},\n"
        f"https://user:{SECRET}@example.org/b.jpg,ftp://user:{SECRET}@example.org/\n"
    )
    output = tmp_path / "out"
    argv = ["classify", str(manifest), "--output", str(output), "--model", tiny_model]
    code = cli.main([*argv, "--log-json", "--max-failure-rate", "1"])
    said = "".join(capfd.readouterr())
    assert code == 0, said
    assert cli.main([*argv, "--top-k", "2", f"--flink_master=http://u:{SECRET}@h"]) == 2
    assert cli.main(["classify", f"https://h/x?sig={SECRET}", *argv[2:]]) == 2
    said += "".join(capfd.readouterr())
    assert SECRET not in said
    written = [path for path in pathlib.Path(output).rglob("*") if path.is_file()]
    assert len(written) > 3
    for path in written:
        assert SECRET.encode() not in path.read_bytes(), path
    import pyarrow.parquet as pq

    rows = pq.read_table(output / "predictions").to_pylist()
    assert SECRET not in json.dumps(rows, default=str)
    assert rows[0]["source"] == "https://storage.googleapis.com/c.jpg?[redacted]"
    assert sorted(row["status"] for row in rows) == ["ok", "read_error", "read_error"]
