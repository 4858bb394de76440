"""What lies among people's images and is none of them: one rule for folders, stores and archives.

Everything here is decided by names alone. What is left out is counted by its kind, under the names
of `KINDS`.
"""

from __future__ import annotations

import collections
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")

FILES = {
    "thumbs.db", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "picasa.ini",
    "zbthumbnail.info"
}  # fmt: skip
_MAC_ICON = "Icon\r"
# Thumbnails, bins and notes that systems and network disks keep beside people's files.
FOLDERS = {
    "@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "$recycle.bin",
    "recycler", "recycled", "system volume information", "__macosx", "lost+found", "@tmp",
    "@sharebin", "@__thumb", "network trash folder", "temporary items", "found.000",
}  # fmt: skip
# Where one of these lies, the folder is this program's own: a dataset, or a model.
_OWN = (b"_imagecensus", b"assets.extra/contract.json")
_TRAINING = b".training"
# What a dataset has in its folder, where that is itself an input.
DATASET_ENTRY = re.compile(
    r"_imagecensus|predictions|run_report(-s\d+of\d+)?\.json|gone(-s\d+of\d+)?\.csv|report\.html|"
    r"evaluation|corrections\.csv|delta"
)

_IMAGES = """
    3fr apng arw avci avcs avif avifs bay bigtif blp bmp bpg btf cap cin cr2 cr3 crw cur dc2
    dcm dcr dcs dcx dds dib dicom djv djvu dng dpx drf eip emf eps erf exr ff fff fits flif
    fpx fts gif gpr hdr heic heics heif heifs hej2 hif icb icns ico iiq img j2c j2k jfif jif
    jng jp2 jpc jpe jpeg jpf jpg jpm jps jpx jxl jxr k25 kdc ktx ktx2 mdc mef mng mos mpo mrw
    msp nef nrw orf ori pam pbm pcd pct pcx pef pfm pgm pic pict pjp pjpeg png pnm ppm psb psd
    ptx pxn qoi r3d raf ras raw rgb rgba rw2 rwl rwz sgi sr2 srf srw sti sun svg svgz svs tga
    tif tiff vda vst wbmp wdp webp wmf x3f xbm xcf xpm
"""
IMAGE_SUFFIXES = frozenset(_IMAGES.split())
# Only what cannot be an image by any reading.
_NO_IMAGES = {
    "sidecar": """aae acr ann arp bbox bib caption cbor cfg checksum cls cls2 cop cos cos csv dop
        exif flg geojson gpx htm html icc id idx index info ini inx iptc jgw jpgw json jsonl jsn
        kml lab label labels lbl log lua mat md md5 meta metadata mie msg nksc npy npz on1 pgw
        pickle pkl pp3 prj properties pt pth pts pyd rst rtf sfv sha1 sha256 srt ssa tab tb ten
        text tfw toml tpw transcript tsv txt url vrd vtt wld xml xmp yaml yml""",
    "video": """3g2 3gp asf avi f4v flv insv lrf lrv m2ts m2v m4v mkv mov mp mp4 mpeg mpg mts mxf
        ogv qt rmvb ts vob webm wmv""",
    "sound": "aac aif aiff amr flac m4a m4b mid midi mp3 oga ogg opus wav wma",
}
_BY_SUFFIX = {suffix: kind for kind, some in _NO_IMAGES.items() for suffix in some.split()}
# What is no image either, and no companion of one. Not archives: they may hold images.
_OTHER_SUFFIXES = """
    apk bat bin c class cpp css db dll doc docx exe h hdf5 h5 ipynb jar js key keynote lnk mdb
    numbers odp ods odt pages part pdf php pl ppt pptx ps1 pub py pyc r rb sh so sql sqlite
    sqlite3 tex tmp ttf vsd woff xls xlsx
"""
_OTHER = frozenset(_OTHER_SUFFIXES.split())
_OTHER_NAMES = re.compile(
    r"(?i)(authors|changelog|copying|copyright|citation|dockerfile|licen[cs]e|makefile|manifest|"
    r"md5sums?|notice|readme|sha(1|256|512)sums?|checksums?|todo|version|classes|labels|_success)"
)
_RECORD = re.compile(r"(?i)\.(parquet|tfrec(ords?)?[^/#]*)#\d+$")
_GROUP = 64  # a hostile archive may hold a million members of one name: groups are cut

# Kind → one of them, several of them.
KINDS = {
    "sidecars": ("sidecar", "sidecars"),
    "videos": ("video", "videos"),
    "sounds": ("sound", "sounds"),
    "excluded": ("excluded", "excluded"),
    "hidden": ("hidden name", "hidden names"),
    "system": ("system file or folder", "system files or folders"),
    "own": ("folder of imagecensus", "folders of imagecensus"),
    "links": ("link", "links"),
    "versions": ("former version", "former versions"),
    "markers": ("delete marker", "delete markers"),
    "no_images": ("file that is no image", "files that are no images"),
    "special": ("pipe, socket or device", "pipes, sockets or devices"),
}


def left_out_text(counts: dict[str, int]) -> str:
    """Counts by kind as people read them: `3 sidecars, 1 video`."""
    some = [(KINDS[kind][counts[kind] != 1], counts[kind]) for kind in KINDS if counts.get(kind)]
    return ", ".join(f"{count:,} {name}" for name, count in some)


def ignored_kind(name: str | bytes) -> str:
    """Why a file or folder of this name is never listed: a name of `KINDS`; "": it is listed."""
    text = os.fsdecode(name)
    if text.startswith("."):
        return "hidden"
    known = text.lower() in FILES or text.lower() in FOLDERS or text == _MAC_ICON
    return "system" if known else ""


def is_ignored(name: str | bytes) -> bool:
    """Whether a file or folder of this name is never listed."""
    return bool(ignored_kind(name))


def is_own(folder: str | bytes) -> bool:
    """Whether a local folder was written by this program: a dataset, a model, a training."""
    path = os.fsencode(folder)
    if path.endswith(_TRAINING) and is_own(path.removesuffix(_TRAINING)):
        return True
    return any(os.path.lexists(os.path.join(path, name)) for name in _OWN)


def is_dataset(folder: str | bytes) -> bool:
    """Whether a local folder holds a dataset of this program."""
    return os.path.lexists(os.path.join(os.fsencode(folder), _OWN[0]))


def is_dataset_entry(name: str) -> bool:
    """Whether what has this name in the folder of a dataset is part of it."""
    return bool(DATASET_ENTRY.fullmatch(name))


def is_image_name(name: str) -> bool:
    """Whether a name says that it is an image's."""
    return _suffix(name) in IMAGE_SUFFIXES


def is_no_image_name(uri: str) -> bool:
    """Whether the name of a file or member says that it is no image: text, sound, a program."""
    if _RECORD.search(uri):
        return False
    name = uri.rpartition("#")[2].rpartition("/")[2]
    suffix = _suffix(name)
    return suffix in _BY_SUFFIX or suffix in _OTHER or bool(_OTHER_NAMES.fullmatch(name))


def without_sidecars(
    items: Iterable[_T], name_of: Callable[[_T], str], left_out: collections.Counter[str]
) -> Iterator[_T]:
    """Leaves out, and counts, what lies right beside an image and cannot be one itself.

    That is what shares an image's name up to its first dot and has a suffix of text, metadata,
    video or sound: of `0007.jpg`, `0007.json`, `0007.jpg.xmp` and `0007.mp4`, all but the first.

    Args:
      items: files or members; those of one name up to the first dot follow each other.
      name_of: the path of an item, with slashes.
      left_out: counts by the names of `KINDS`.
    """
    for _, group in itertools.groupby(items, lambda item: _stem(name_of(item))):
        while some := list(itertools.islice(group, _GROUP)):
            kinds = [_BY_SUFFIX.get(_suffix(name_of(item)), "") for item in some]
            if any(kinds) and any(is_image_name(name_of(item)) for item in some):
                left_out.update(f"{kind}s" for kind in kinds if kind)
                yield from itertools.compress(some, [not kind for kind in kinds])
            else:
                yield from some


def _stem(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _suffix(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name else ""
