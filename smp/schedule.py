# %% [markdown]
# ## How density falls and the regulariser grows
#
# A run starts with every weight and ends with the share $v_f$. In between, the density follows
# a cubic: it falls fast while much is left to remove, and slowly near the end,
# $$v(t) = v_f + (1 - v_f)\,(1 - t/N)^3 \quad (t \le N), \qquad v(t) = v_f \quad (t > N).$$
# The regulariser's weight grows as the mirror image, $\lambda(t) = \lambda_f\,(1 - (1 - t/T)^3)$.
# $N$ and $T$ are shares of the run here, so that a short run has the shape of a long one.

# %%
def density_at(step, steps, final, ramp, hold=0.0):
    """v(t): the share of weights kept in optimiser step `step` (from 0) of `steps`.

    `ramp` is N / steps; the steps after N keep `final`, and the mask may still swap weights then.
    hold: share of the run before the density starts to fall, 0 in SMP.
    Source: SMP, section 4; the cubic is that of Zhu & Gupta (2017).
    """
    return final + (1 - final) * (1 - cubic_ramp(step, steps, ramp, hold))


def regulariser_at(step, steps, final, ramp):
    """lambda(t): the regulariser's weight in step `step`; `ramp` is T / steps.

    Source: the authors' code; for the paper's way see `regulariser_by_density`.
    """
    return final * cubic_ramp(step, steps, ramp)


def regulariser_by_density(density, goal, final):
    """lambda(t) as the paper has it: tied to v(t) / v_f, so it ends at `final` with the density.

    Source: SMP, Eq. 9. The paper sums R over the matrices where the authors' code, and we, take
    the mean: for its numbers multiply `final` by the number of matrices (72 in BERT-base).
    """
    return final * density / goal


def schedule_at(step, steps, settings):
    """(v(t), lambda(t)) in step `step` of `steps`, as the settings have them."""
    density = density_at(
        step, steps, settings.density, settings.density_ramp, settings.density_hold
    )
    if settings.regulariser_rule == "density":
        return density, regulariser_by_density(density, settings.density, settings.regulariser)
    return density, regulariser_at(step, steps, settings.regulariser, settings.regulariser_ramp)


def cubic_ramp(step, steps, ramp, hold=0.0):
    """1 - (1 - t)^3, from 0 at the share `hold` of the run to 1 at the share `ramp`, then 1."""
    t = (step / steps - hold) / (ramp - hold)
    return 1.0 if t >= 1 else 1 - (1 - max(0.0, t)) ** 3

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
        self.density, self.weight = schedule_at(step, steps, self.settings)
        self.masks.refresh(self.density)

    def after_backward(self, step, steps):
        """Adds lambda(t) dR/dS. Before the gradients are clipped, as in the authors' code."""
        if self.weight:
            self.masks.add_regulariser_gradient(self.weight)

    def finish(self):
        """The mask that is shipped: from the last scores, at exactly the density asked for."""
        self.density = self.settings.density
        self.masks.refresh(self.density)
