"""LoRAs put to use: routed at run time, compared method by method, fused into one file."""
