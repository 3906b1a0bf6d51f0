"""How the conditional and unconditional predictions are made and combined."""

from .acfg import Row, row_gates
from .cfg import combine, guidance_scale_of, omega_of

__all__ = ["Row", "combine", "guidance_scale_of", "omega_of", "row_gates"]
