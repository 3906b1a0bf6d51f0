"""The launcher behind run.py: run/ finds and uses ComfyUI, publish/ prepares a release.

Nothing here is part of the node pack: the pack never imports this package. Standard library only:
it runs before anything is installed. What it needs of the pack (client, and the core's errors) it
imports as craft_lora_pack, which is the clone as one package.
"""

from .pack import as_package

as_package()
