"""What shows only over time: many prompts in one live server."""
