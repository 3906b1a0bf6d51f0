"""Compile device.cpp; as a script, into the file that it is given."""

import subprocess
import sys
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("device.cpp")


def build(library: Path) -> Path:
    """With g++, against the torch that runs this; takes about half a minute."""
    torch_folder = Path(torch.__file__).parent
    include = torch_folder / "include"
    command = [
        "g++", "-O1", "-shared", "-fPIC", "-std=c++17", SOURCE, "-o", library,
        f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}",
        f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu",
    ]  # fmt: skip
    try:
        subprocess.run([str(part) for part in command], check=True)
    except FileNotFoundError:
        sys.exit("the pretend device needs the C++ compiler g++ (Debian: apt install g++).")
    return library


if __name__ == "__main__":
    build(Path(sys.argv[1]))
