"""LoRA files on their way to a server: how they are announced, and how they are sent."""
