"""The one room that speaks to the host (`comfy.*`): what the nodes need, on the host's terms."""
