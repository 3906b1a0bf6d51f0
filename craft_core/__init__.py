"""CRAFT-LoRA and its neighbours on plain tensors: no host, no device choice, no printing."""
