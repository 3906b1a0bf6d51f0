"""What is read of models and files: layers, LoRAs, bases, expert encoders."""
