"""ComfyUI found or set up, started and used: the demo, workflows, tests, benchmarks."""
