"""A virtual environment for each group of contestants, because what they need contradicts: one NumPy 2, the other 1.

An environment keeps a copy of the requirements it was made from and is made anew where they changed.
"""

import pathlib
import shutil
import subprocess
import sys

REQUIREMENTS = pathlib.Path(__file__).parent / "requirements"


def interpreter(folder, name):
    """The Python of the environment `name`, which is made where it is missing."""
    wanted, venv = REQUIREMENTS / f"{name}.txt", folder / name
    python, made_from = venv / "bin" / "python", venv / "requirements.txt"
    if not made_from.exists() or made_from.read_text() != wanted.read_text():
        print(f"installing {wanted.name}", file=sys.stderr)
        run(sys.executable, "-m", "venv", "--clear", venv)
        run(python, "-m", "pip", "install", "--quiet", "-r", wanted)
        shutil.copy(wanted, made_from)
    return python


def run(*command):
    if subprocess.run(command).returncode != 0:
        words = " ".join(map(str, command))
        raise SystemExit(
            f"error: `{words}` failed\n"
            "help: contestants need a package index and Python 3.11; --only leaves out those that cannot be installed"
        )


def versions(names):
    """The packages that these environments are about, as `name==version`, in the files' words."""
    lines = [line for name in names for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines()]
    return [line for line in lines if line.startswith(("jax==", "onnxruntime", "torch=="))]
