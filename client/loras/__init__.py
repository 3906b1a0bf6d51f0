"""LoRA files on their way to a server: their names, how they are announced, how they are sent."""
