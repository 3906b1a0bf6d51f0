"""Whether this Python has what the benchmarks import, in a second: `preflight.py cuda|cpu`.

Prints one line that says all that is missing, and fails; or which torch and card there are. Needs
COMFYUI_PATH, whose requirements.txt is looked through without importing what it names.
"""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

MODULES = {"pyyaml": "yaml", "pillow": "PIL"}  # of packages that are imported by other names
UNUSED = (  # of the page, its templates and its 3D nodes
    "comfyui-frontend-package", "comfyui-workflow-templates", "comfyui-embedded-docs", "pyopengl",
    "comfy-angle", "glfw",
)  # fmt: skip


def missing(requirements: str) -> list[str]:
    """The packages that this Python lacks, of those a requirements.txt names."""
    names = re.findall(r"^([\w.-]+)", requirements, re.M)
    needed = [name.lower() for name in names if name.lower() not in UNUSED]
    return [one for one in needed if not find_spec(MODULES.get(one, re.sub("[-.]", "_", one)))]


def complaint(comfyui: Path, device: str) -> str | None:
    """What keeps the benchmarks from running; None where nothing does."""
    if not (comfyui / "comfy" / "cli_args.py").is_file():
        return f"COMFYUI_PATH is {comfyui}, which is no ComfyUI"
    lacking = missing((comfyui / "requirements.txt").read_text("utf-8"))
    if lacking:
        return (
            f"{sys.executable} lacks {', '.join(lacking)}; install {comfyui / 'requirements.txt'} "
            "there, or name ComfyUI's own Python in PYTHON"
        )
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return f"torch {torch.__version__} of {sys.executable} finds no CUDA card"
    card = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    print(f"torch {torch.__version__}{card}")
    return None


if __name__ == "__main__":
    found = complaint(Path(os.environ["COMFYUI_PATH"]), sys.argv[1])
    sys.exit(found and f"cannot run: {found}")
