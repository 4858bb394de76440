"""The lock names each package with hashes, and none has a licence that does not fit."""

import pathlib
import runpy
import subprocess
import sys

import pytest

LICENCES = pathlib.Path(__file__).parents[1] / ".ci" / "licences.py"


def test_locked_packages_have_hashes_and_fitting_licences():
    done = subprocess.run([sys.executable, str(LICENCES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_package_without_a_hash_is_found():
    locked_packages = runpy.run_path(str(LICENCES))["locked_packages"]
    text = "a==1 \\\n    --hash=sha256:00\nb==2\n"
    assert locked_packages(text) == {"a": True, "b": False}


@pytest.mark.parametrize("flags, code", [([], 2), (["--where-possible"], 0)])
def test_an_audit_that_cannot_be_made_says_so_and_never_counts_as_one(flags, code, tmp_path):
    python = tmp_path / "python"  # beside which there is no pip-audit
    python.symlink_to(sys.executable)
    command = [str(python), str(LICENCES.with_name("audit.py")), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert "notice: not audited" in done.stdout


def test_what_nobody_could_be_asked_about_does_not_count_as_audited():
    findings = runpy.run_path(str(LICENCES.with_name("audit.py")))["findings"]
    hole = {"id": "CVE-1", "fix_versions": ["1.1"]}
    answer = {
        "dependencies": [
            {"name": "a", "version": "1.0", "vulns": [hole]},
            {"name": "b", "version": "2.0", "vulns": []},
            {"name": "c", "skip_reason": "not found"},
        ]
    }
    line = "a==1.0: CVE-1, fixed in 1.1"
    assert findings(answer) == (2, [line], [line], ["not found"])


@pytest.mark.parametrize(
    "versions, flags, code",
    [(["1.1"], ["--fixable"], 1), ([], ["--fixable"], 0), ([], [], 1), (["1.1"], [], 1)],
)
def test_a_vulnerability_with_a_fix_fails_and_one_without_is_reported(
    versions, flags, code, monkeypatch, capsys
):
    main = runpy.run_path(str(LICENCES.with_name("audit.py")))["main"]
    answer = {
        "name": "pillow",
        "version": "1.0",
        "vulns": [{"id": "CVE-1", "fix_versions": versions}],
    }
    monkeypatch.setitem(
        main.__globals__, "audit", lambda lock, pip_audit: {"dependencies": [answer]}
    )
    monkeypatch.setattr(sys, "argv", ["audit.py", "--exposed", "--where-possible", *flags])
    assert main() == code
    assert "pillow==1.0: CVE-1" in capsys.readouterr().out


def test_the_exposed_packages_are_all_locked():
    audit = runpy.run_path(str(LICENCES.with_name("audit.py")))
    lock = audit["only"](audit["EXPOSED"], audit["LOCK"].read_text())
    assert {line.split("==")[0] for line in lock.splitlines() if "==" in line} == audit["EXPOSED"]
    assert lock.count("--hash=sha256:") >= len(audit["EXPOSED"])
