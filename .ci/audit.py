"""Looks the locked packages up among known vulnerabilities, with pip-audit.

python .ci/audit.py [--exposed] [--fixable] [--where-possible] [LOCK]      (make audit)

Fails with 1 where a package has one, with 2 where somebody could not be asked about a package.
`--exposed` asks about those packages only that read other people's files or models.
`--fixable` fails on those only that a newer version does not have, and prints the others.
`--where-possible` makes a notice of what could not be asked: no test and no build depends on a
network.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import tempfile

LOCK = pathlib.Path(__file__).parents[1] / "constraints.txt"
# they read people's files, models and archives
EXPOSED = {
    "apache-beam",
    "cykooz-resizer",
    "duckdb",
    "google-cloud-storage",
    "jinja2",
    "deltalake",
    "huggingface-hub",
    "imagecodecs",
    "nncf",
    "numpy",
    "obstore",
    "openvino",
    "pi-heif",
    "pillow",
    "pyarrow",
    "pydicom",
    "pypdfium2",
    "rawpy",
    "tensorflow",
    "tensorflow-hub",
    "tfx-bsl",
    "tifffile",
    "zstandard",
}


def only(names: set[str], lock: str) -> str:
    """The entries of a lock file's text that are of these packages."""
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", lock)
    return "".join(entry for entry in entries if re.split(r"[=\[]", entry)[0].lower() in names)


def audit(lock: str, pip_audit: str) -> dict:
    """What pip-audit answers about a lock file's text. Raises OSError where it has no answer."""
    command = [pip_audit, "--disable-pip", "--require-hashes", "--progress-spinner=off"]
    command += ["--timeout=15", "--format=json", "--requirement"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(lock)
        file.flush()
        done = subprocess.run([*command, file.name], capture_output=True, text=True)
    try:
        return {"dependencies": json.loads(done.stdout)["dependencies"]}
    except (ValueError, KeyError):
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise OSError(said[-1] if said else f"pip-audit ended with {done.returncode}") from None


def findings(answer: dict) -> tuple[int, list[str], list[str], list[str]]:
    """(packages audited, a line for each vulnerability, those with a fix, why others were not)."""
    audited, found, fixable, unknown = 0, [], [], []
    for package in answer["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["skip_reason"])
            continue
        audited += 1
        for one in package["vulns"]:
            fixed = ", ".join(one["fix_versions"]) or "no version yet"
            line = f"{package['name']}=={package['version']}: {one['id']}, fixed in {fixed}"
            found.append(line)
            if one["fix_versions"]:
                fixable.append(line)
    return audited, found, fixable, unknown


def main() -> int:
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    lock = pathlib.Path(words[0] if words else LOCK).read_text()
    if "--exposed" in sys.argv:
        lock = only(EXPOSED, lock)
    beside = pathlib.Path(sys.executable).parent / "pip-audit"
    try:
        audited, found, fixable, unknown = findings(audit(lock, str(beside)))
    except OSError as error:
        audited, found, fixable, unknown = 0, [], [], [str(error)]
    for line in found:
        print(line)
    print(f"{audited} packages audited, {len(found)} vulnerabilities")
    if unknown:
        print(f"notice: not audited, {len(unknown)} times, as: {unknown[0]}")
    if fixable if "--fixable" in sys.argv else found:
        return 1
    return 2 if unknown and "--where-possible" not in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
