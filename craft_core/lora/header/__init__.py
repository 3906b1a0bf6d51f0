"""What the header of a LoRA file says of it, before a tensor is read: layers and base model."""
