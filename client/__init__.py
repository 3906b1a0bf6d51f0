"""A running ComfyUI, spoken to over HTTP; the standard library alone, so that the launcher may
use it before anything is installed."""
