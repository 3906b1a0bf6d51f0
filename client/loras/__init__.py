"""LoRA files on their way to a server: what they may be called, how they are announced, and how they
are sent."""
