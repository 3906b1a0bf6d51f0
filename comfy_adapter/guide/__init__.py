"""How conditional and unconditional predictions are combined, through the host's own guider."""
