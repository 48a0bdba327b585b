# %% [markdown]
# ## How density falls and the regulariser grows
#
# A run starts with every weight and ends with the share $v_f$. In between, the density follows
# a cubic: it falls fast while much is left to remove, and slowly near the end,
# $$v(t) = v_f + (1 - v_f)\,(1 - t/N)^3 \quad (t \le N), \qquad v(t) = v_f \quad (t > N).$$
# The regulariser's weight grows as the mirror image, $\lambda(t) = \lambda_f\,(1 - (1 - t/T)^3)$.
# $N$ and $T$ are shares of the run here, so that a short run has the shape of a long one.

# %%
def density_at(step, steps, final, ramp):
    """v(t): the share of weights kept in optimiser step `step` (from 0) of `steps`.

    `ramp` is N / steps. The steps after N keep `final`; the mask may still swap weights then.
    Source: SMP, section 4; the cubic is that of Zhu & Gupta (2017).
    """
    t = step / (steps * ramp)
    return final if t >= 1 else final + (1 - final) * (1 - t) ** 3


def regulariser_at(step, steps, final, ramp):
    """lambda(t): the regulariser's weight in step `step`; `ramp` is T / steps.

    Source: the authors' code; the paper ties lambda to v(t) / v_f instead (Eq. 9).
    """
    t = step / (steps * ramp)
    return final if t >= 1 else final * (1 - (1 - t) ** 3)

# %%
class Pruning:
    """Masks in time: what the training loop calls in each step.

    masks: the model's `Masks`; steps are counted from 0. `density` and `weight` hold the current
    v(t) and lambda(t).
    """

    def __init__(self, masks, settings):
        self.masks, self.settings = masks, settings
        self.density, self.weight = 1.0, 0.0

    def before_forward(self, step, steps):
        """New masks for this step, at exactly v(t): the only time in a step they change."""
        chosen = self.settings
        self.density = density_at(step, steps, chosen.density, chosen.density_ramp)
        self.masks.refresh(self.density)

    def after_backward(self, step, steps):
        """Adds lambda(t) dR/dS. Before the gradients are clipped, as in the authors' code."""
        chosen = self.settings
        self.weight = regulariser_at(step, steps, chosen.regulariser, chosen.regulariser_ramp)
        self.masks.add_regulariser_gradient(self.weight)

    def finish(self):
        """The mask that is shipped: from the last scores, at exactly the density asked for."""
        self.density = self.settings.density
        self.masks.refresh(self.density)
