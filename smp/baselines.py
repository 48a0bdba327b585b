# %% [markdown]
# ## What SMP is compared with
#
# Three methods choose a mask and train the weights beside it; all run in the same loop, on the
# same data, with the same head and evaluation as SMP.
#
# | method | a weight stays if | weights | source |
# |---|---|---|---|
# | magnitude | its size is among the top $v$ of its matrix | trained | Zhu & Gupta 2017 |
# | movement | its score is among the top $v$ of its matrix | trained | Sanh et al. 2020 |
# | soft movement | $\sigma(S) > \tau$, one $\tau$ for all matrices | trained | Sanh et al. 2020 |
# | SMP-L, SMP-S | its score is among the top $v$ of its matrix, its type | frozen | Jiang 2023 |
#
# Movement may have its layers compete as well, as they do in SMP-S (`movement-s` of a sweep).
#
# A removed weight gets no gradient, $\partial L / \partial W = (\partial L / \partial W') \odot M$;
# its score does, so with learned scores it can come back.

# %%
import torch

# %%
from smp.masks import Masks

# %%
from smp.schedule import Pruning, cubic_ramp

# %%
from smp.skipping import skip_zeros

# %%
class MagnitudeMasks(Masks):
    """Keeps the largest |W| of each matrix, as W stands at the moment; nothing but W is learned."""

    trains_weights, learns_scores = True, False

    def ranking(self, name):
        return self.linears[name].parametrizations.weight.original.abs()


class MovementMasks(Masks):
    """Learned scores as in SMP, with the weights trained as well (Sanh et al. 2020, section 3)."""

    trains_weights = True


class SoftMovementMasks(MovementMasks):
    """Keeps what passes a threshold instead of a given share: the matrices compete."""

    @torch.no_grad()
    def refresh_above(self, threshold):
        """mask = sigma(S) > threshold. -> share of all masked weights that stays"""
        kept = total = 0
        for mask in self.masks.values():
            mask.mask.copy_(mask.scores.sigmoid() > threshold)
            kept, total = kept + mask.mask.sum(), total + mask.mask.numel()
        return int(kept) / total

# %% [markdown]
# Of soft movement only the penalty is chosen, $\lambda R$ with the same $R$ as SMP's, and the
# density is what comes of it: its record says both, the density aimed at and the one reached.

# %%
class SoftPruning(Pruning):
    """Soft movement in time: threshold and penalty rise together on the cubic.

    Source: Sanh et al. 2020, section 4.2 and their code, where both start at 0.
    """

    def before_forward(self, step, steps):
        chosen = self.settings
        self.risen = cubic_ramp(step, steps, chosen.density_ramp, chosen.density_hold)
        self.density = self.masks.refresh_above(chosen.threshold * self.risen)

    def after_backward(self, step, steps):
        self.weight = self.settings.regulariser * self.risen
        self.masks.add_regulariser_gradient(self.weight)

    def finish(self):
        self.density = self.masks.refresh_above(self.settings.threshold)

# %%
METHOD_MASKS = {
    "smp": Masks, "magnitude": MagnitudeMasks, "movement": MovementMasks,
    "soft movement": SoftMovementMasks,
}


def attach_pruning(model, settings):
    """The `Pruning` of settings.method, its masks attached to the model."""
    masks = METHOD_MASKS[settings.method](
        model, settings.sharing, settings.temperature, settings.score_start,
        settings.trains_vectors,
    )
    skip_zeros(masks, settings.precision)
    kind = SoftPruning if settings.method == "soft movement" else Pruning
    return kind(masks, settings)
