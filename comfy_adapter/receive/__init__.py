"""LoRAs that a command line sends: taken only where the person who starts the host asks for it."""
