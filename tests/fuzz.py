"""Hostile bytes for everything that reads a file: only typed errors may come out.

    python tests/fuzz.py TARGET --seconds 60        (needs `pip install atheris`; make fuzz)

Each `check_…` below takes any bytes and raises only for a defect. They are driven by the
coverage-guided fuzzer here, and by hypothesis, over the same seeds, in `test_hostile_bytes.py`.
What once found a defect is kept in `tests/hostile/TARGET/`.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import pathlib
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
HOSTILE = ROOT / "tests" / "hostile"
MAX_PIXELS = 4_000_000
MAX_BYTES = 1 << 20


def check_decode(data: bytes, folder: pathlib.Path) -> None:
    """An image: pixels, or an ImageError with a status of the closed set."""
    import numpy as np

    from imagecensus.model_export.decoding import pages
    from imagecensus.model_export.preprocess import (
        ImageError,
        PreprocessSpec,
        configure_pillow,
        decode_image,
    )
    from imagecensus.transforms.records import Status

    configure_pillow()
    spec = PreprocessSpec(height=16, width=24)
    out = np.empty(spec.shape, np.uint8)
    pages.count(data)
    try:
        info = decode_image(data, spec, out, MAX_PIXELS)
        assert info.width * info.height <= MAX_PIXELS
    except ImageError as error:
        assert Status(error.status) is not Status.OK


def check_archive(data: bytes, folder: pathlib.Path) -> None:
    """An archive of any kind: each member, or page of one, listed once, and read or typed."""
    from imagecensus.model_export.decoding import pages
    from imagecensus.model_export.image_formats import ImageError
    from imagecensus.transforms.archives import listing
    from imagecensus.transforms.archives.reading import Place
    from imagecensus.transforms.image_ref import ImageRef
    from imagecensus.transforms.read_images import read_image
    from imagecensus.transforms.records import Status

    path = str(folder / "archive.tar")
    pathlib.Path(path).write_bytes(data)
    kind = listing.archive_kind(path, len(data), "")
    if kind is None:
        return
    columns = listing.column_schema(path, len(data), "")
    for all_pages in (False, True):
        uris = set()
        batches = listing.list_archive(
            path, len(data), "", kind, columns=columns, all_pages=all_pages
        )
        with Place() as place:
            for row in (row for batch in batches for row in batch.to_pylist()):
                assert row["uri"] not in uris, "one uri for two members"
                uris.add(row["uri"])
                try:
                    photo = read_image(ImageRef.of(row), MAX_BYTES, place)
                    assert pages.size_of(photo) <= MAX_BYTES
                except ImageError as error:
                    assert Status(error.status) is not Status.OK


def check_contract(data: bytes, folder: pathlib.Path) -> None:
    """A contract.json: a Contract or a ModelError."""
    from imagecensus.model_export import contract

    extra = folder / contract.EXTRA
    extra.mkdir(exist_ok=True)
    (folder / "saved_model.pb").touch()
    (extra / contract.LABELS_FILE).write_text("cat\ndog\n")
    (extra / contract.CONTRACT_FILE).write_bytes(data)
    try:
        found = contract.read_contract(str(folder), verify_digest=False)
        assert isinstance(found.digest, str) and len(found.labels) == 2
    except contract.ModelError:
        pass


def check_golden(data: bytes, folder: pathlib.Path) -> None:
    """A golden.npz: arrays or a ModelError, and nothing unpickled."""
    from imagecensus.model_export import contract

    (folder / contract.EXTRA).mkdir(exist_ok=True)
    (folder / contract.EXTRA / contract.GOLDEN_FILE).write_bytes(data)
    with contextlib.suppress(contract.ModelError):
        contract.read_golden(str(folder))


def check_graph(data: bytes, folder: pathlib.Path) -> None:
    """A saved_model.pb: judged, or a ModelError."""
    from imagecensus.model_export.contract import ModelError
    from imagecensus.model_export.safety import check_graph

    (folder / "saved_model.pb").write_bytes(data)
    with contextlib.suppress(ModelError):
        check_graph(str(folder))


def check_manifest(data: bytes, folder: pathlib.Path) -> None:
    """A manifest; its first byte chooses the format: references or an InputError."""
    from imagecensus.transforms.inputs.files import InputError
    from imagecensus.transforms.inputs.manifests import list_manifest

    suffixes = (".csv", ".jsonl", ".txt", ".tsv", ".parquet", ".json", ".csv.gz")
    suffix = suffixes[data[0] % len(suffixes) if data else 0]
    path = folder / f"manifest{suffix}"
    path.write_bytes(data[1:])
    try:
        for batch in list_manifest(str(path)):
            assert batch.column("uri").null_count == 0
    except InputError:
        pass


def check_plan(data: bytes, folder: pathlib.Path) -> None:
    """A plan file of an output: units or a PlanError."""
    from imagecensus.transforms.dataset import work_plan

    path = folder / "plan-00000-0.parquet"
    path.write_bytes(data)
    work_plan._open_plan.cache_clear()
    try:
        for unit in work_plan.read_plan(str(folder)).units:
            work_plan.read_unit(unit)
        work_plan.find_references(str(folder), ["/a"])
    except work_plan.PlanError:
        pass


def check_report(data: bytes, folder: pathlib.Path) -> None:
    """A run_report.json beside a small table: a page or a UserError."""
    from imagecensus.jobs.report import write_report
    from imagecensus.model_export.common.errors import UserError

    table = folder / "predictions" / "part-0.parquet"
    if not table.exists():
        table.parent.mkdir()
        table.write_bytes(_part())
    (folder / "run_report.json").write_bytes(data)
    with contextlib.suppress(UserError):
        write_report(str(folder))


TARGETS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}


def seeds_of(target: str) -> list[bytes]:
    """Well-formed inputs to start from."""
    if target == "decode":
        return _images()
    if target == "archive":
        return _archives()
    if target == "manifest":
        return _manifests()
    if target == "plan":
        return [_plan()]
    if target == "golden":
        return [_golden()]
    if target == "graph":
        return [_graph()]
    return [json.dumps(seed).encode() for seed in _JSON[target]]


_JSON = {
    "contract": [
        {
            "contract_version": 1, "name": "x", "preprocess": {"height": 32, "width": 32},
            "top_k": 2, "embedding_size": 4, "training": {}, "metrics": {}, "classes": 2,
            "package_version": "0.1.0", "digest": "ab",
        },
    ],
    "report": [
        {
            "run_id": "0a", "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:00:01Z",
            "totals": {"listed": 1, "rows": 1, "images": 1, "predicted": 1, "failed": 0,
                      "balanced": True, "pending": 0},
            "statuses": {"ok": 1}, "labels": {"cat": 1},
            "rates": {"images": 1, "seconds": 1.0, "images_per_second": 1.0,
                      "cpu_seconds_by_stage": {"read": 0.1}},
            "counters": {"units": 1}, "inputs": ["/a"], "engine": "openvino",
            "model": {"location": "/m", "name": "m", "digest": "ab"}, "versions": {"python": "3"},
        },
    ],
}  # fmt: skip


def _images() -> list[bytes]:
    import numpy as np
    from PIL import Image

    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 7, 3)).astype(np.uint8))
    wide = Image.fromarray(np.arange(63, dtype=np.uint16).reshape(9, 7) * 999)
    made = [
        (rgb, "JPEG", {"exif": _exif(6)}), (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "JPEG", {"progressive": True}), (rgb, "PNG", {}), (wide, "PNG", {}),
        (rgb.convert("P"), "PNG", {"transparency": 0}), (rgb.convert("LA"), "PNG", {}),
        (rgb.convert("P"), "GIF", {"save_all": True, "append_images": [rgb.convert("P")]}),
        (rgb, "WEBP", {}), (rgb, "WEBP", {"lossless": True}), (rgb, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}), (rgb, "TIFF", {"compression": "jpeg"}),
        (wide, "TIFF", {"compression": "tiff_deflate"}), (rgb.convert("F"), "TIFF", {}),
        (rgb, "BMP", {}), (rgb.convert("1"), "BMP", {}), (rgb, "PPM", {}), (rgb, "JPEG2000", {}),
        (rgb, "AVIF", {}), (rgb, "TGA", {"compression": "tga_rle"}), (rgb, "PCX", {}),
        (rgb, "QOI", {}), (rgb, "SGI", {}), (rgb, "DDS", {}), (rgb, "ICO", {}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}), (rgb, "PDF", {}),
        (rgb.convert("P"), "PDF", {"save_all": True, "append_images": [rgb]}),
    ]  # fmt: skip
    photos = []
    for image, kind, options in made:
        file = io.BytesIO()
        image.save(file, kind, **options)
        photos.append(file.getvalue())
    return photos + _images_of_the_extra()


def _images_of_the_extra() -> list[bytes]:
    import imagecodecs
    import numpy as np
    import tifffile
    from image_files import whole

    rgb = np.random.default_rng(2).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    deep = rgb.astype(np.uint16)
    tiffs = []
    for samples, options in (
        (deep * 16, {"photometric": "rgb", "compression": "lzw"}),
        (deep * 257, {"photometric": "rgb", "planarconfig": "separate"}),
        (rgb[..., 0].astype(np.float32), {"compression": "deflate"}),
        (np.stack([rgb] * 3), {"photometric": "rgb"}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, samples, **options)
        tiffs.append(file.getvalue())
    return [
        *tiffs,
        imagecodecs.jpegxl_encode(rgb),
        imagecodecs.jpeg2k_encode(deep * 257, level=0, codecformat="JP2"),
        imagecodecs.jpeg_encode(deep << 4, bitspersample=12),
        imagecodecs.jpeg_encode(rgb, lossless=True),
        imagecodecs.rgbe_encode(rgb.astype(np.float32) / 255),
        b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" + bytes(16),
        b"PF\n2 2\n-1.0\n" + bytes(48),
        imagecodecs.jpegls_encode(rgb),
        *(path.read_bytes() for path in (ROOT / "tests" / "data" / "heic").glob("*.heic")),
        *_dicoms(),
        *_pages(tiffs[-1]),
        *_psds(rgb),
        *(whole(kind, (48, 32)) for kind in ("DNG", "DNG preview", "TIFF LERC", "MPO", "HDR")),
    ]


def _psds(rgb: np.ndarray) -> list[bytes]:
    """Each packing, depth and a few modes, with layers and transparency."""
    import numpy as np
    from image_files import psd_of

    rgba = np.dstack([rgb, rgb[..., :1]])
    return [
        psd_of(rgb, packing=0), psd_of(rgba, layers=-1), psd_of(rgba, 4, big=True),
        psd_of(rgb.astype(np.uint16), 9, packing=3), psd_of(rgb / np.float32(255), packing=3),
        psd_of(rgb[..., :1] & 1, 0), psd_of(rgb[..., :1], 2, palette=bytes(768)),
    ]  # fmt: skip


def _dicoms() -> list[bytes]:
    import pydicom

    folder = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
    names = ("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm",
             "SC_rgb_small_odd_jpeg.dcm", "rtdose_rle.dcm", "SC_rgb_rle_2frame.dcm")  # fmt: skip
    return [(folder / name).read_bytes() for name in names]


def _pages(stack: bytes) -> list[bytes]:
    """Chosen pages of a TIFF, a GIF, a WebP, an animated PNG and a PDF."""
    from PIL import Image

    from imagecensus.model_export.decoding import pages

    files = [stack]
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "PDF"):
        file = io.BytesIO()
        frames = [Image.new("RGB", (9, 7), (shade, 9, 99)) for shade in (0, 99, 222)]
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        files.append(file.getvalue())
    return [pages.select(file, number) for file in files for number in (1, 3)]


def _exif(orientation: int):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _archives() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    photo, stack = _images()[3], io.BytesIO()
    frames = [Image.new("L", (9, 7), shade) for shade in (0, 99, 222)]
    frames[0].save(stack, "TIFF", save_all=True, append_images=frames[1:])
    plain, sparse = io.BytesIO(), io.BytesIO()
    for file, kind in ((plain, tarfile.GNU_FORMAT), (sparse, tarfile.PAX_FORMAT)):
        with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
            for name in ("a.png", "d/ü" + "x" * 120 + ".png", "a.png"):
                info = tarfile.TarInfo(name)
                info.size = len(photo)
                archive.addfile(info, io.BytesIO(photo))
            info = tarfile.TarInfo("e.tif")
            info.size = len(stack.getvalue())
            archive.addfile(info, io.BytesIO(stack.getvalue()))
    zips = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("a.png", photo)
            archive.writestr("ü/b.png", photo)
            archive.writestr("c.tif", stack.getvalue())
        zips.append(file.getvalue())
    table = pa.table({"image": [photo, None], "label": [1, 2]})
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    records = _tfrecord(photo)
    return [
        plain.getvalue(), sparse.getvalue(), gzip.compress(plain.getvalue(), mtime=0), *zips,
        parquet.getvalue(), records, gzip.compress(records, mtime=0),
    ]  # fmt: skip


def _tfrecord(photo: bytes) -> bytes:
    """One tf.train.Example with `image/encoded`, framed; checksums by the reader's own function."""
    from imagecensus.transforms.archives.tfrecord_archive import _masked_crc

    def field(number: int, data: bytes) -> bytes:
        size = len(data)
        varint = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
        return bytes([number << 3 | 2]) + varint + data

    feature = field(1, field(1, photo))
    example = field(1, field(1, field(1, b"image/encoded") + field(2, feature)))
    head = struct.pack("<Q", len(example))
    return b"".join(
        [head, struct.pack("<I", _masked_crc(head)), example]
        + [struct.pack("<I", _masked_crc(example))]
    )


def _manifests() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = io.BytesIO()
    pq.write_table(pa.table({"path": ["a.jpg"], "label": [1]}), parquet)
    return [
        b'\0uri,label\na.jpg,1\n"b,c.jpg",2\n',
        b'\1{"uri": "a.jpg", "tags": [1, {"x": null}]}\n{"uri": "b.jpg"}\n',
        b"\2a.jpg\n\xff\xfe.jpg\r\n\ngs://b/c\n",
        b"\3path\tx\na.jpg\t1\n",
        b"\4" + parquet.getvalue(),
    ]


def _plan() -> bytes:
    import pyarrow as pa

    from imagecensus.transforms.dataset import plan_units
    from imagecensus.transforms.inputs import files

    with tempfile.TemporaryDirectory() as folder:
        refs = [files.reference_batch([("/a", 1, "2"), ("/b", -1, "")])]
        plan_units.plan_units(refs, folder, "f", passthrough=pa.schema([]))
        [plan] = pathlib.Path(folder).glob("plan-*")
        return plan.read_bytes()


def _part() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from imagecensus.transforms.records import prediction_schema

    row = {"uri": "/nowhere.jpg", "status": "ok", "label": "cat", "class_id": 0, "score": 0.5}
    row |= {"top_k": [{"label": "cat", "class_id": 0, "score": 0.5}], "etag_or_mtime": "1"}
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row], prediction_schema()), file)
    return file.getvalue()


def _golden() -> bytes:
    import numpy as np

    file = io.BytesIO()
    photos = np.zeros((1, 2, 2, 3), np.uint8)
    ids, scores = np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32)
    np.savez_compressed(file, images=photos, class_ids=ids, scores=scores)
    return file.getvalue()


def _graph() -> bytes:
    from imagecensus.model_export.safety import _saved_model

    model = _saved_model()()
    graph = model.meta_graphs.add()
    node = graph.graph_def.node.add(name="a", op="Const", input=["b"])
    node.attr.add(key="f").value.func.name = "g"
    function = graph.graph_def.library.function.add()
    function.signature.name = "g"
    function.node_def.add(name="n", op="Identity")
    signature = graph.signature_def.add(key="s")
    signature.value.outputs.add(key="o").value.name = "a:0"
    return model.SerializeToString()


def main() -> int:
    parser = argparse.ArgumentParser(description="coverage-guided fuzzing of the readers")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import atheris

    with atheris.instrument_imports(include=["imagecensus", "PIL"]):
        import imagecensus.transforms.archives.listing
        import imagecensus.transforms.dataset.work_plan
        import imagecensus.transforms.list_images
        import imagecensus.transforms.read_images  # noqa: F401
    check = TARGETS[options.target]
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory()) as scratch:
        scratch = pathlib.Path(scratch)
        corpus, place = scratch / "corpus", scratch / "place"
        corpus.mkdir()
        place.mkdir()
        for number, seed in enumerate(seeds_of(options.target)):
            (corpus / f"seed{number}").write_bytes(seed)
            check(seed, place)  # imports what it needs, which counts against nobody's time
        arguments = [str(corpus), f"-max_total_time={options.seconds}", "-timeout=60"]
        arguments += ["-rss_limit_mb=4096", "-max_len=20000", "-print_final_stats=1"]
        arguments += ["-len_control=0"]  # seeds are whole files: none starts from nothing
        arguments += [f"-artifact_prefix={ROOT}/fuzz-{options.target}-"]
        atheris.Setup([sys.argv[0], *arguments], lambda data: check(data, place))
        atheris.Fuzz()
    return 0


def _memory() -> str | None:
    return "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None


def damaged(seed: bytes, places: list[tuple[float, int]], cut: float) -> bytes:
    """The seed with some bytes replaced and its end cut off."""
    data = bytearray(seed)
    for where, value in places:
        if data:
            data[int(where * (len(data) - 1))] = value
    data = data[: round(cut * len(data))]
    # A PNG's damage should reach the decoder, not stop at a checksum.
    if data[:4] == b"\x89PNG" and len(data) > 33:
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main())
