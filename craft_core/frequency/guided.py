"""Two signals joined by band: low frequencies of one, high frequencies of the other.

CRAFT-LoRA (arXiv 2602.18936), App. A.1: z <- F^-1(M_low F(z_c) + M_high F(z_s)), with z_c guided
by the content prompt and z_s by the style prompt.
"""

from __future__ import annotations

from torch import Tensor

from .split import Domain, low_pass


def blend(z_low: Tensor, z_high: Tensor, cutoff: float, domain: Domain) -> Tensor:
    """F^-1(M_low F(z_low) + M_high F(z_high)) over the last two axes.

    z_low, z_high: (..., height, width) of one shape, dtype and device, which the result has too.
    Written as z_high + lowpass(z_low - z_high), the same thing since F is linear and
    M_high = 1 - M_low: so blend(x, x) is x, and the end stops (cutoff 1: z_low, cutoff 0: z_high)
    are exact. Raises CraftError as `masks` does. Source: App. A.1.
    """
    assert z_low.shape == z_high.shape, "both bands need one grid"
    if cutoff == 1.0:
        return z_low.clone()
    return z_high + low_pass(z_low - z_high, cutoff, domain)
