"""Packs files into archives of every kind, the way the usual tools do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

KINDS = (
    "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip", "tfrecord", "tfrecord.gz", "parquet",
    "hf.parquet",
)  # fmt: skip
NAMED = ("tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip")  # kinds whose members have names
PACK = {
    "bz2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE, preset=0),
    "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    "gz": lambda data: gzip.compress(data, 1),
    "zlib": lambda data: zlib.compress(data, 1),
}


def pack(kind: str, files: list[tuple[str, bytes]], path) -> str:
    """Writes an archive of that kind; returns its path."""
    path = str(path)
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            add_to_tar(tar, files)
    elif kind.startswith("tar."):
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as tar:
            add_to_tar(tar, files)
        with open(path, "wb") as file:
            file.write(PACK[kind.partition(".")[2]](plain.getvalue()))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in files:
                packed.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    elif kind.startswith("tfrecord"):
        content = b"".join(map(framed, examples(files)))
        with open(path, "wb") as file:
            file.write(PACK[kind.partition(".")[2]](content) if "." in kind else content)
    else:
        bodies = [data for _, data in files]
        names = [name for name, _ in files]
        image = pa.array(bodies, pa.binary())
        if kind == "hf.parquet":
            image = pa.StructArray.from_arrays(
                [image, pa.array(names, pa.string())], ["bytes", "path"]
            )
        table = pa.table({"image": image, "label": pa.array(range(len(files)), pa.int64())})
        pq.write_table(table, path, row_group_size=7, write_page_checksum=True)
    return path


def add_to_tar(tar: tarfile.TarFile, files: list[tuple[str, bytes]]) -> None:
    for name, data in files:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def examples(files: list[tuple[str, bytes]]) -> list[bytes]:
    """Serialized tf.Examples with TFDS' feature names."""
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    columns = {
        "image/encoded": pa.array([[data] for _, data in files], pa.list_(pa.binary())),
        "image/filename": pa.array(
            [[n.encode("utf-8", "replace")] for n, _ in files], pa.list_(pa.binary())
        ),
        "image/class/label": pa.array([[i] for i in range(len(files))], pa.list_(pa.int64())),
    }
    if not files:
        return []
    return RecordBatchToExamplesEncoder().encode(pa.RecordBatch.from_pydict(columns))


def framed(record: bytes) -> bytes:
    """One record as TFRecord files hold it."""
    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
