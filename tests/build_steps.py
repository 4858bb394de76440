"""Runs the steps of a Dockerfile in a plain root folder, where there is no Docker engine.

  python tests/build_steps.py DOCKERFILE FOLDER      (make build-steps; as root, with debootstrap)

The folder becomes a minimal Debian of the release of the base image, with Debian's own Python.

What a step copies from other images is left out. This is not `docker build`: it shows that the lock
installs there and that the package works from it.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
RELEASE = "bookworm"
PYTHON = "/opt/python"
# What is brought from here, so that names resolve and pip finds its registry as it does here.
_FROM_HERE = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
CHECKS = (
    "imagecensus --version",
    "python -c 'import imagecensus.jobs.classify, imagecensus.transforms.engines.openvino_engine'",
    "python -m apache_beam.runners.worker.worker_pool_main --help",
)


class Build:
    """The state between steps: variables, and the folder that commands run in."""

    def __init__(self, root: pathlib.Path):
        self._root, self._folder = root, "/"
        self._variables = {"PATH": f"{PYTHON}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

    def begin(self) -> None:
        """Makes the root folder, unless it is there."""
        if not (self._root / "usr" / "bin").is_dir():
            packages = "--include=python3,python3-venv,ca-certificates"
            command = ["debootstrap", "--variant=minbase", packages, RELEASE, str(self._root)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for path in filter(os.path.exists, _FROM_HERE):
            target = self._root / path[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy(path, target)
        self.run(f"test -x {PYTHON}/bin/python || python3 -m venv {PYTHON}")

    def step(self, instruction: str, rest: str) -> None:
        if instruction in ("ARG", "ENV"):
            name, _, value = rest.partition("=")
            self._variables[name] = re.sub(
                r"\$\{?(\w+)\}?", lambda found: self._variables.get(found[1], ""), value
            )
        elif instruction == "WORKDIR":
            self._folder = rest
            self._inside(rest).mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                self._copy(ROOT / source, target)
        elif instruction == "RUN":
            self.run(rest)
        else:
            print(f"left out: {instruction} {rest}", flush=True)

    def run(self, command: str) -> None:
        """Runs a shell command inside."""
        print(f"run: {command}", flush=True)
        inside = ["chroot", str(self._root), "/bin/sh", "-ec", f"cd {self._folder}; {command}"]
        subprocess.run(inside, check=True, env=self._variables)

    def _copy(self, source: pathlib.Path, target: str) -> None:
        there = self._inside(target)
        if source.is_dir():
            shutil.copytree(source, there, dirs_exist_ok=True)
        else:
            there.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, there)

    def _inside(self, path: str) -> pathlib.Path:
        return self._root / os.path.normpath(os.path.join(self._folder, path)).lstrip("/")


def steps(text: str) -> list[tuple[str, str]]:
    """(instruction, the rest on one line) of each step of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in whole.splitlines()]  # type: ignore[misc]


def main(dockerfile: str, folder: str) -> int:
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        print("notice: steps not run: needs root, and debootstrap (apt-get install debootstrap)")
        return 0
    build = Build(pathlib.Path(folder).resolve())
    build.begin()
    for instruction, rest in steps(pathlib.Path(dockerfile).read_text()):
        build.step(instruction, rest)
    for check in CHECKS:
        build.run(f"{check} > /dev/null")
    print(f"built and checked in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
