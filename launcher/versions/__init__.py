"""The versions of ComfyUI that the pack runs on: tests on older ones, and what it uses of each."""
