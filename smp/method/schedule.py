"""How the density falls and the regulariser grows during a run.

The density v(t) falls from 1 to v_f on a cubic until step N; the regulariser's weight lambda(t)
rises from 0 to lambda_f on the mirrored cubic until step T. N and T are fractions of the run, so a
short run has the shape of a long one. Source: SMP, section 4.1, and the authors' code.
"""

from typing import Any


def cubic_ramp(step: float, steps: float, ramp: float, hold: float = 0.0) -> float:
    """Return 1 - (1 - t)^3, which is 0 until the fraction `hold` of the run and 1 from `ramp`."""
    t = (step / steps - hold) / (ramp - hold)
    return 1.0 if t >= 1 else 1 - (1 - max(0.0, t)) ** 3


class Pruning:
    """The masks, density and regulariser weight in each training step.

    settings: has density, density_ramp_fraction (N), density_hold_fraction (0 in SMP), regulariser
    and regulariser_ramp_fraction (T). `density` and `weight` are the current v(t) and lambda(t).
    """

    def __init__(self, masks: Any, settings: Any):
        self.masks, self.settings = masks, settings
        self.density, self.weight = 1.0, 0.0

    def density_at(self, step: float, steps: float) -> float:
        """Return v(t), the share of weights kept in optimizer step `step` (from 0) of `steps`."""
        chosen = self.settings
        fallen = cubic_ramp(step, steps, chosen.density_ramp_fraction, chosen.density_hold_fraction)
        return chosen.density + (1 - chosen.density) * (1 - fallen)

    def regulariser_at(self, step: float, steps: float) -> float:
        """Return lambda(t), the regulariser's weight."""
        chosen = self.settings
        return chosen.regulariser * cubic_ramp(step, steps, chosen.regulariser_ramp_fraction)

    def before_forward(self, step: int, steps: int) -> None:
        """Choose the masks of this step. Masks change at no other time in a step."""
        self.density, self.weight = self.density_at(step, steps), self.regulariser_at(step, steps)
        self.masks.refresh(self.density)

    def after_backward(self, step: int, steps: int) -> None:
        """Add lambda(t) dR/dS to the gradients before they are clipped, as the authors do."""
        if self.weight:
            self.masks.add_regulariser_gradient(self.weight)

    def finish(self) -> None:
        """Choose the final masks from the last scores, at exactly the target density."""
        self.density = self.settings.density
        self.masks.refresh(self.density)
