"""Installs dist/imagecensus-*.whl as a stranger would, and uses it.     (make test-wheel)

An empty environment in a temporary folder, the packages of constraints-classify.txt, commands
from another folder. Nothing of the checkout is on the path.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
MODEL = ROOT / "tests" / "data" / "v0.1" / "model"
EXPORT = ("--labels", "labels.txt", "--input-range", "0..1")
# command → an extra that its refusal names
NEEDS = {
    ("train", "photos", "--output", "model"): "imagecensus[tensorflow]",
    ("export", "model.keras", "--output", "model", *EXPORT): "imagecensus[tensorflow]",
    ("classify", "photos", "--model", str(MODEL), "--output", "tf", "--engine", "tensorflow"): (
        "imagecensus[tensorflow]"
    ),
    ("browse", "census"): "imagecensus[browse]",
}


def main() -> int:
    (wheel,) = (ROOT / "dist").glob("imagecensus-*.whl")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        install = [folder / "venv/bin/pip", "install", "--quiet", "--no-deps"]
        lock = ROOT / "constraints-classify.txt"
        subprocess.run([*install, "--require-hashes", "--requirement", lock], check=True)
        subprocess.run([*install, wheel], check=True)
        subprocess.run([folder / "venv/bin/pip", "check"], check=True)

        work = folder / "work"
        (work / "photos" / "a").mkdir(parents=True)
        draw = (
            "from PIL import Image\n"
            "for n in range(4):\n"
            "    Image.new('RGB', (64, 48), (60 * n, 99, 9)).save(f'photos/a/{n}.jpg')\n"
            "open('model.keras', 'wb').write(b'no model')\n"
            "open('labels.txt', 'w').write('a b'.replace(' ', chr(10)))\n"
        )
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

        def run(*command: object, code: int = 0) -> str:
            done = subprocess.run(
                command, cwd=work, env=environment, capture_output=True, text=True, timeout=300
            )
            said = done.stdout + done.stderr
            shown = " ".join([pathlib.Path(command[0]).name, *map(str, command[1:3])]).splitlines()[
                0
            ]
            print(f"exit {done.returncode}  {shown}")
            if done.returncode != code:
                sys.exit(f"{said}\nexpected exit code {code}")
            return said

        run(folder / "venv/bin/python", "-c", draw)
        command = folder / "venv/bin/imagecensus"
        assert "usage: imagecensus" in run(command, "--help")
        version = wheel.name.split("-")[1]
        assert run(command, "--version").strip() == f"imagecensus {version}"
        run(command, "doctor", "photos", "--model", MODEL, "--output", "census")
        said = run(command, "classify", "photos", "--model", MODEL, "--output", "census")
        assert "4 predicted + 0 failed" in said, said
        assert (work / "census" / "report.html").is_file()
        for words, extra in NEEDS.items():
            said = run(command, *words, code=2)
            assert f"pip install '{extra}'" in said, f"{' '.join(words)} said: {said}"
        shutil.rmtree(work)
    print("the wheel works, installed by itself")
    return 0


if __name__ == "__main__":
    sys.exit(main())
