"""A node pack for a soak's server alone: one route that counts what the process holds.

It is linked into the `custom_nodes` of the soak's own base directory and nowhere else.
"""

import gc
import hashlib
import resource
from pathlib import Path

import comfy.model_management
import torch
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS: dict = {}
ROUTE = "/craft_soak_probe"


@PromptServer.instance.routes.get(ROUTE)
async def probe(_request: web.Request) -> web.Response:
    """What the process holds after a collection: memory, objects, tensors, loaded models."""
    gc.collect()
    alive = gc.get_objects()
    tensors = [one for one in alive if type(one) in (torch.Tensor, torch.nn.Parameter)]
    return web.json_response(
        {
            "memory": _resident(),
            "objects": len(alive),
            "tensors": len(tensors),
            "weights": sorted(
                _digest(loaded.model.model)
                for loaded in comfy.model_management.current_loaded_models
                if loaded.model is not None
            ),
        }
    )


def _resident() -> int:
    """Bytes of this process in memory now; where the system does not say, the most so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmRSS"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _digest(model: torch.nn.Module) -> str:
    """A model's class and the hash of all its weights, bit by bit."""
    whole = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        whole.update(name.encode())
        whole.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{type(model).__name__} {whole.hexdigest()[:16]}"
