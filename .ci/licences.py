"""Lists the licence of each locked package; fails on one that may not be shipped with the rest.

python .ci/licences.py [--list]      (make licences; asks nothing but the installed packages)
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import sys

LOCK = pathlib.Path(__file__).parents[1] / "constraints.txt"
ALLOWED = re.compile(
    r"apache|\bmit\b|bsd|isc\b|python software foundation|\bpsf|mpl|mozilla public|unlicen[cs]e"
    r"|zlib|hpnd|0bsd|public domain|cc0|zpl|lgpl|lesser general public",
    re.IGNORECASE,
)


_LICENCE_FILE = re.compile(r"(LICEN[CS]E|COPYING)", re.IGNORECASE)
# How the texts of common licences call themselves, for packages whose metadata does not.
_NAMED = re.compile(r"Apache License, Version 2\.0|MIT License|BSD [23]-Clause License")


def locked_packages(text: str) -> dict[str, bool]:
    """name → whether its lines carry hashes, of a constraints file."""
    packages, name = {}, None
    for line in text.splitlines():
        start = re.match(r"([A-Za-z0-9._-]+)==", line)
        if start:
            name = start[1]
            packages[name] = False
        if name and "--hash=sha256:" in line:
            packages[name] = True
    return packages


def licence_of(name: str) -> tuple[str, str] | None:
    """What an installed package says of its licence, and where; None where it is not installed."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    said = [metadata.get("License-Expression") or ""]
    said += [c.split("::")[-1].strip() for c in metadata.get_all("Classifier") or [] if "Lic" in c]
    said.append((metadata.get("License") or "").strip().split("\n")[0][:80])
    said = ", ".join(dict.fromkeys(text for text in said if text and text != "UNKNOWN"))
    if said:
        return said, "metadata"
    for file in importlib.metadata.files(name) or ():
        if file.parts[0].endswith(".dist-info") and _LICENCE_FILE.match(file.name):
            found = _NAMED.search(" ".join(file.read_text().split()))
            return (found[0] if found else "", f"{file.name} in the package")
    return "", "nowhere"


def main() -> int:
    packages = locked_packages(LOCK.read_text())
    bad = []
    for name, hashed in sorted(packages.items()):
        licence, source = licence_of(name) or (None, "not installed here")
        if "--list" in sys.argv:
            print(f"{name:40} {licence or '':60} ({source})")
        if not hashed:
            bad.append(f"{name}: locked without a hash")
        if licence is not None and not ALLOWED.search(licence):
            bad.append(f"{name}: licence {licence or 'unknown'!r} is not among the allowed ones")
    print(f"{len(packages)} packages locked; {len(bad)} problems")
    print(*bad, sep="\n")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
