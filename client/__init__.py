"""A client of a running ComfyUI, over HTTP and WebSocket; the standard library alone, so that the
launcher can use it before anything is installed."""
