"""Looks the locked packages up among known vulnerabilities, with pip-audit.

python .ci/audit.py [--where-possible] [LOCK]      (make audit)

Fails with 1 where a package has one, with 2 where nobody could be asked. `--where-possible` makes a
notice of the latter: no test and no build depends on a network.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

LOCK = pathlib.Path(__file__).parents[1] / "constraints.txt"


def audit(lock: pathlib.Path, pip_audit: str = "pip-audit") -> dict[str, list[str]]:
    """package==version → its known vulnerabilities. Raises OSError where nobody could be asked."""
    command = [pip_audit, "--disable-pip", "--require-hashes", "--progress-spinner=off"]
    command += ["--timeout=15", "--format=json", "--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise OSError(said[-1] if said else f"pip-audit ended with {done.returncode}") from None
    return {
        f"{package['name']}=={package.get('version')}": [
            f"{one['id']}, mended in {', '.join(one['fix_versions']) or 'no version yet'}"
            for one in package.get("vulns", ())
        ]
        for package in packages
    }


def main() -> int:
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    beside = pathlib.Path(sys.executable).parent / "pip-audit"
    try:
        found = audit(pathlib.Path(words[0]) if words else LOCK, str(beside))
    except OSError as error:
        print(f"notice: not audited, as the vulnerability service cannot be asked: {error}")
        return 0 if "--where-possible" in sys.argv else 2
    for package, vulnerabilities in found.items():
        for vulnerability in vulnerabilities:
            print(f"{package}: {vulnerability}")
    print(f"{len(found)} packages audited; {sum(map(bool, found.values()))} vulnerable")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
