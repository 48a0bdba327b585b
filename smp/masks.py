# %% [markdown]
# ## The mask
#
# Static Model Pruning (Jiang et al., ACL 2023) never changes a pretrained weight $W$. It learns
# a score $S$ for each and keeps those with the highest: $y = (W \odot M)\,x + b$, where the mask
# $M \in \{0, 1\}$ marks the top $k$ scores. A mask has no gradient, so the *straight-through*
# estimator passes the masked weight's gradient on as if $M$ were $S$:
# $$\frac{\partial L}{\partial S} = \frac{\partial L}{\partial W'} \odot W,\qquad W' = W \odot M,$$
# for kept and removed weights alike: a removed weight that would help sees its score rise and
# comes back.

# %%
import inspect
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

# %%
def masked_weight(weight, mask, out=None):
    """W' = W * M, for a bool mask; on a CPU it is made where it will lie, else torch would fetch
    memory for M as numbers, which costs more than the product."""
    if weight.device.type != "cpu":
        return torch.mul(weight, mask, out=out)
    numbers = torch.empty_like(weight) if out is None else out
    return numbers.copy_(mask.view(torch.uint8)).mul_(weight)


def straight_through_gradients(grad, weight, mask, of_weight, of_scores, in_place):
    """(dL/dW' * M, dL/dW' * W) from grad = dL/dW', each None unless wanted; in_place: the latter
    may be made in grad's memory."""
    for_weight = masked_weight(grad, mask) if of_weight else None
    for_scores = torch.mul(grad, weight, out=grad if in_place else None) if of_scores else None
    return for_weight, for_scores


class StraightThrough(torch.autograd.Function):
    """W' = W * M forward. Backward dL/dS = dL/dW' * W (SMP, Eq. 3) and, for methods that train the
    weights too, dL/dW = dL/dW' * M; nothing for what is frozen.

    place: None, or a tensor that W' is written into, for one linear layer that multiplies with it
    and with nothing else: dL/dW' is then this function's own, and dL/dS is made in its memory.
    """

    @staticmethod
    def forward(ctx, weight, scores, mask, place):
        ctx.save_for_backward(weight, mask)
        ctx.is_own = place is not None
        return masked_weight(weight, mask, place).detach()

    @staticmethod
    def backward(ctx, grad):
        in_place = ctx.is_own and not torch.is_grad_enabled()
        gradients = straight_through_gradients(
            grad, *ctx.saved_tensors, *ctx.needs_input_grad[:2], in_place
        )
        return *gradients, None, None


class StaticMask(nn.Module):
    """What is attached to a weight (out, in): its scores, and its mask, all kept at first.

    The scores start at `start` * |W| / mean |W|: at 0, as in SMP, unless a short run is given the
    magnitudes to begin with. `start` None: there are no scores to learn.

    Attached through `torch.nn.utils.parametrize`, so the host stays the stock Hugging Face
    model; at density 1 its logits are the same to the last bit.
    """

    def __init__(self, weight, start=0.0):
        super().__init__()
        self.scores = None
        if start is not None:
            size = weight.detach().abs()
            self.scores = nn.Parameter(start * size / size.mean().clamp_min(1e-12))
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.place = None  # where W' is written, while the linear layer it belongs to runs
        self.near = []  # where the next refresh looks for its cut

    def forward(self, weight):
        return StraightThrough.apply(weight, self.scores, self.mask, self.place)

# %% [markdown]
# The backward needs $W'$ again, and autograd would keep every one of them until then: the encoder
# a second time. To multiply once more costs less than to fetch new memory, so all matrices of a
# shape take turns in one place.

# %%
class Scratch:
    """scratch(tensor): memory of that shape, kind and device, the same at every call."""

    def __init__(self):
        self.kept = {}

    def __call__(self, like):
        key = like.shape, like.dtype, like.device
        if key not in self.kept:
            self.kept[key] = torch.empty_like(like, memory_format=torch.contiguous_format)
        return self.kept[key]


def remake_in_backward(linear, mask, scratch):
    """Lets a linear layer write W' into scratch memory, and make it anew for its backward.

    linear: an nn.Linear with `mask`, its StaticMask, attached. Returns the handles of two hooks.
    Under autocast what is kept is a half-precision copy of W', as in fine-tuning.
    """
    def pack(kept):
        place = mask.place
        if place is None or place.untyped_storage().data_ptr() != kept.untyped_storage().data_ptr():
            return kept, kept._version, None
        how_it_was_seen = kept.size(), kept.stride(), kept.storage_offset()
        return mask.mask, mask.mask._version, how_it_was_seen

    def unpack(packed):
        source, version, view = packed
        if source._version != version:  # autograd leaves this check to whoever packs
            raise RuntimeError("masks or inputs were modified between forward and backward")
        if view is None:
            return source
        with torch.no_grad():
            return masked_weight(weight, source, scratch(weight)).as_strided(*view)

    weight, hooks = linear.parametrizations.weight.original, []

    def enter(*_):
        mask.place = scratch(weight)
        hooks.append(torch.autograd.graph.saved_tensors_hooks(pack, unpack))
        hooks[-1].__enter__()

    def leave(*_):
        mask.place = None
        hooks.pop().__exit__(None, None, None)

    return (linear.register_forward_pre_hook(enter),
            linear.register_forward_hook(leave, always_call=True))

# %% [markdown]
# Exactly $k = \lfloor v\,n \rfloor$ weights stay. That needs care: all scores start equal, and
# after Adam's first step they are all $\pm$ the learning rate, so at first nearly everything is a
# tie, and a rule such as "$S >$ threshold" would keep far too many or none. Ties go to the lower
# index, on every device.

# %%
def kept_count(density, total):
    """floor(v * n), where v is the decimal number as written: 0.29 of 100 is 29, not 28."""
    return math.floor(Fraction(str(float(density))) * total)


def keep_top(scores, k, out=None, near=None):
    """Mask, bool and of the scores' shape, of exactly the k highest; ties to the lower index.

    out: a contiguous bool tensor to write it into; near: on a CPU, a list [low, high] between which
    the k-th highest may lie, or an empty one: it holds afterwards where to look when the scores
    have moved by a little. It makes no difference to the mask.
    """
    n, flat = scores.numel(), scores.detach().flatten()
    mask = torch.empty_like(scores, dtype=torch.bool) if out is None else out
    if k <= 0 or k >= n:
        return mask.fill_(k > 0)
    if flat.device.type != "cpu":
        return mask.copy_(keep_top_on_device(flat, k).view_as(scores))
    values, kept = flat.numpy(), mask.view(-1).numpy()
    found = keep_top_between(values, k, *near, kept) if near else None
    if found is None:
        found = keep_top_between(values, k, *likely_cut(values, k), kept)
    if found is None:
        found = keep_top_between(values, k, -np.inf, np.inf, kept)
    if near is not None:
        near[:] = found if 0 < found[1] - found[0] < math.inf else ()
    torch.autograd.graph.increment_version(mask)  # numpy wrote it, unseen by autograd
    return mask


def keep_top_between(values, k, low, high, mask):
    """Writes the mask of the k highest of a float array (n,) and returns (low, high) around the
    k-th of them, with about a half percent of the values between; None where it does not lie
    in [low, high]."""
    np.greater(values, high, out=mask)
    between = values >= low
    np.not_equal(between, mask, out=between)
    places = np.flatnonzero(between)
    near, left = values[places], k - np.count_nonzero(mask)
    if not 0 < left <= len(near):
        return (low, high) if left == 0 else None
    cut = float(np.partition(near, len(near) - left)[len(near) - left])
    higher = np.flatnonzero(near > cut)
    mask[places[higher]] = True
    mask[places[np.flatnonzero(near == cut)[: left - len(higher)]]] = True
    reach = len(values) / 400 / len(near) * (high - low)
    return (cut - reach, cut + reach)


def likely_cut(values, k):
    """(low, high) with the k-th highest of a float array (n,) very likely between them.

    To sort what is between, a few in a thousand, is far cheaper than to sort everything (Floyd and
    Rivest, 1975): one value in 61 tells where to look, the rank of a first guess where exactly.
    """
    n, step = len(values), 61  # prime to the widths of matrices: the sample walks all columns
    if n < 10_000:
        return -np.inf, np.inf
    sample = np.concatenate([[-np.inf], values[::step], [np.inf]], dtype=values.dtype)
    rank, spread = len(sample) - 2 - k / step, 4 * math.sqrt(k * (n - k) / n / step) + 2
    first, last = max(0, round(rank - spread)), min(len(sample) - 1, round(rank + spread))
    near = np.sort(np.partition(sample, (first, last))[first : last + 1])
    guess = len(near) // 2
    found = np.count_nonzero(values > near[guess])
    if found < k and near[guess - 1] == near[guess]:  # one of many that are equal, maybe the cut
        found = np.count_nonzero(values >= near[guess])
        if found >= k:
            return float(near[guess]), float(near[guess])
    rank, spread = guess + (found - k) / step, 4 * math.sqrt(abs(found - k) / step) + 3
    first, last = np.clip((round(rank - spread), round(rank + spread)), 0, len(near) - 1)
    return float(near[first]), float(near[last])


def keep_top_on_device(flat, k):
    """The same for a flat tensor on any device, without waiting for it."""
    others = flat.numel() - k + 1  # the lowest so many end at the k-th highest
    if k <= others:
        cut = flat.topk(k, sorted=False).values.min()
    else:
        cut = flat.topk(others, largest=False, sorted=False).values.max()
    mask, tied = flat > cut, flat == cut
    places = k - mask.sum()  # left for those that tie at the cut; at least 1
    return mask | (tied & (tied.cumsum(0, dtype=torch.int32) <= places))

# %% [markdown]
# How is the density shared out? **SMP-L** (local) keeps the same share in every matrix. **SMP-S**
# lets the layers compete within each type of matrix (all queries, all keys, ...): layer $l$ gets
# $v_l \propto r_l$, the mean of $\sigma(S_l / p)$. A layer cannot keep more than all it has; what
# it cannot take goes to the others, so the total stays exact (the authors' code lets it go, and
# ends below the density asked for).

# %%
def share_out(total_kept, sizes, importance):
    """Whole numbers kept per layer, in proportion to size * importance, at most the size.

    total_kept: int <= sum(sizes); sizes: n_l; importance: r_l > 0 (SMP, Eq. 5). The surplus of a
    full layer is shared among the rest in the same proportion; remainders go to the largest
    fractions, ties to the lower layer. The sum is exactly total_kept.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    claim = sizes * np.asarray(importance, dtype=np.float64)
    kept, open_layers, left = np.zeros_like(sizes), np.ones(len(sizes), dtype=bool), total_kept
    while open_layers.any():
        kept[open_layers] = left * claim[open_layers] / claim[open_layers].sum()
        full = open_layers & (kept >= sizes)
        if not full.any():
            break
        kept[full] = sizes[full]
        open_layers &= ~full
        left = total_kept - int(sizes[~open_layers].sum())
    whole = np.floor(kept).astype(int)
    missing = total_kept - int(whole.sum())
    whole[np.argsort(whole - kept, kind="stable")[:missing]] += 1
    return whole.tolist()

# %% [markdown]
# Which weights are masked? Every linear layer inside the encoder's stack of equal blocks: in BERT
# the query, key, value and output of the attention and both halves of the feed-forward network.
# Embeddings, LayerNorms, biases and the head are not. They are found by structure, not by name, so
# RoBERTa, DistilBERT, ELECTRA or MPNet will do as well. ALBERT runs one block many times: its one
# set of masks serves every pass. A model whose weights are elsewhere is refused, not half masked.

# %%
def matrix_modules(block):
    """[(path, module)] of the modules in a block that hold a matrix; tables (nn.Embedding) do not
    count. A weight that is a method is that of torch's quantised layers."""
    return [
        (path, module) for path, module in block.named_modules()
        if not isinstance(module, nn.Embedding) and (
            inspect.ismethod(getattr(module, "weight", None))
            or any(own.dim() > 1 for own in module.parameters(recurse=False))
        )
    ]


def encoder_stacks(model):
    """{name: nn.ModuleList} of the base model's lists of layers that hold matrices, outermost."""
    stacks = {}
    for name, module in model.base_model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and not inside and matrix_modules(module):
            stacks[name] = module
    return stacks


def why_unmaskable(model, stacks):
    """What keeps a model with these stacks of layers from being masked; "" where nothing does."""
    if len(stacks) != 1:
        some = f"{len(stacks)} stacks of layers, not one ({', '.join(stacks)})"
        return f"has {some if stacks else 'no stack of encoder layers'}"
    (stack,) = stacks.values()
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    shapes = [[] for _ in stack]
    for layer, block in enumerate(stack):
        for path, module in matrix_modules(block):
            weight = getattr(module, "weight", None)
            if isinstance(module, parametrize.ParametrizationList):
                return "has masks already (load it anew for others)"
            if not isinstance(module, nn.Linear) and not inspect.ismethod(weight):
                return f"keeps weights of its layers in {type(module).__name__} ({layer}.{path})"
            if type(weight) is not nn.Parameter or not weight.is_floating_point():
                return f"has quantised layers ({layer}.{path})"
            if uses[id(weight)] > 1:
                return f"uses one matrix in several places ({layer}.{path})"
            shapes[layer].append((path, weight.shape))
        if shapes[layer] != shapes[0]:
            return f"has layers that are not alike (0 and {layer})"
    return ""


def encoder_linears(model):
    """[(name in the base model, layer, reader's name of the matrix, nn.Linear)] of the encoder.

    Raises ValueError with the reason where the model has not exactly one stack of layers, or where
    these are not alike, not made of plain nn.Linear, or share weights.
    """
    stacks = encoder_stacks(model)
    reason = why_unmaskable(model, stacks)
    if reason:
        raise ValueError(
            f"{type(model).__name__} {reason}: masks need one stack of equal layers made of "
            "nn.Linear; name an encoder such as BERT, RoBERTa, DistilBERT, ELECTRA or MPNet"
        )
    return [
        (f"{stack}.{layer}.{path}", layer, matrix, linear)
        for stack, blocks in stacks.items()
        for layer, block in enumerate(blocks)
        for matrix, (path, linear) in zip(matrix_names(block), matrix_modules(block), strict=True)
    ]


def encoder_vectors(model):
    """{name in the base model: parameter (n,)} of the same layers: their biases and LayerNorms.

    SMP leaves them as they are. Of large language models, to train them after pruning is known to
    repair much (Zimmer et al. 2023, "PERP"). They are few, 0.1% of BERT-base, and shipped beside
    the masks.
    """
    return {
        f"{stack}.{name}": parameter
        for stack, blocks in encoder_stacks(model).items()
        for name, parameter in blocks.named_parameters() if parameter.dim() == 1
    }


def matrix_names(block):
    """Readers' names of a block's matrices, in its order.

    Six that start with q, k and v and have the shapes of attention and feed-forward are called as
    in BERT, whatever the family calls them; others by their paths.
    """
    paths, linears = zip(*matrix_modules(block), strict=True)
    shapes = [tuple(linear.weight.shape) for linear in linears]
    hidden, inner = shapes[0][0], shapes[-1][1]
    usual = [(hidden, hidden)] * 4 + [(inner, hidden), (hidden, inner)]
    if shapes == usual and [path.split(".")[-1][:1] for path in paths[:3]] == ["q", "k", "v"]:
        return ["query", "key", "value", "attention output", "intermediate", "output"]
    return [matrix_name(path) for path in paths]


def matrix_name(path):
    """Reader's name of a path in a layer: 'attention.self.query' is 'query'."""
    return path.removeprefix("attention.self.").removesuffix(".dense").replace(".", " ")

# %% [markdown]
# The regulariser $R$ is the mean of $\sigma(S)$, averaged over the matrices: it pushes all scores
# down, and kept ones harder than removed ones, so the mask keeps moving late in the run. Its
# gradient is known in closed form, so it costs no pass through the model.

# %%
class Masks:
    """The masks of a model: attached on creation, and what is not to be trained frozen.

    model: a stock Hugging Face model with a head; sharing: "local" (SMP-L) or "shared" (SMP-S);
    temperature: p of SMP-S; start: of the scores, in units of |W| / mean |W|; vectors: whether
    those of `encoder_vectors` are trained, beside the scores and the head. Raises ValueError where
    the model has no encoder to mask.
    """

    trains_weights, learns_scores = False, True  # other methods differ (smp/baselines.py)
    zeros = "multiplied"  # or "skipped" in training steps (smp/skipping.py)

    def __init__(self, model, sharing="local", temperature=1.0, start=0.0, vectors=False):
        self.sharing, self.temperature = sharing, temperature
        self.places = encoder_linears(model)
        for parameter in model.base_model.parameters():
            parameter.requires_grad_(self.trains_weights)
        for parameter in encoder_vectors(model).values() if vectors else ():
            parameter.requires_grad_(True)
        self.masks, self.hooks, self.scratch = {}, [], Scratch()
        for name, _, _, linear in self.places:
            self.masks[name] = StaticMask(linear.weight, start if self.learns_scores else None)
            parametrize.register_parametrization(linear, "weight", self.masks[name])
            self.hooks += remake_in_backward(linear, self.masks[name], self.scratch)
        self.linears = {name: linear for name, _, _, linear in self.places}
        self.types = {}  # type of matrix -> names of those in each layer
        for name, _, matrix, _ in self.places:
            self.types.setdefault(matrix, []).append(name)

    @property
    def scores(self):
        return [mask.scores for mask in self.masks.values() if mask.scores is not None]

    def ranking(self, name):
        """The tensor (out, in) whose highest entries stay: in SMP, the scores."""
        return self.masks[name].scores

    @torch.no_grad()
    def refresh(self, density):
        """New masks from the scores, at exactly this density; once per optimiser step."""
        ranks = {name: self.ranking(name) for name in self.masks}
        kept = self.kept_counts(density, ranks)

        def choose(name):
            mask = self.masks[name]
            keep_top(ranks[name], kept[name], out=mask.mask, near=mask.near)

        names = sorted(ranks, key=lambda name: -ranks[name].numel())  # the large ones first
        if ranks[names[0]].device.type == "cpu" and torch.get_num_threads() > 1:
            with ThreadPoolExecutor(torch.get_num_threads()) as threads:
                list(threads.map(choose, names))  # numpy lets go of the interpreter meanwhile
        else:
            for name in names:
                choose(name)

    def kept_counts(self, density, ranks):
        """{name: weights kept} from {name: what is ranked}; SMP-S: shared out over the layers."""
        if self.sharing == "local":
            return {name: kept_count(density, rank.numel()) for name, rank in ranks.items()}
        rates = torch.stack([
            torch.sigmoid(
                rank if self.temperature == 1 else rank / self.temperature, out=self.scratch(rank)
            ).mean() for rank in ranks.values()
        ])
        rates = dict(zip(ranks, rates.tolist(), strict=True))  # the one wait for a GPU in a step
        kept = {}
        for names in self.types.values():
            sizes = [ranks[name].numel() for name in names]
            shares = share_out(
                kept_count(density, sum(sizes)), sizes, [rates[name] for name in names]
            )
            kept |= dict(zip(names, shares, strict=True))
        return kept

    @torch.no_grad()
    def add_regulariser_gradient(self, weight):
        """Adds weight * dR/dS, R = mean over matrices of mean sigma(S) (SMP, Eq. 8), to the scores'
        gradients: weight / (matrices * numel) * sigma(S) * (1 - sigma(S))."""
        for scores in self.scores:
            slope = torch.sigmoid(scores, out=self.scratch(scores))
            slope.addcmul_(slope, slope, value=-1)
            scale = weight / (len(self.masks) * scores.numel())
            if scores.grad is None:
                scores.grad = slope * scale
            else:
                scores.grad.add_(slope, alpha=scale)

    def layers(self):
        """Kept and total weights of each matrix: [{"layer", "matrix", "kept", "total"}]."""
        return [
            {"layer": layer, "matrix": matrix,
             "kept": int(self.masks[name].mask.sum()), "total": self.masks[name].mask.numel()}
            for name, layer, matrix, _ in self.places
        ]

    def numpy(self):
        """{name of the matrix in the base model: bool array (out, in)}, a copy."""
        return {name: mask.mask.cpu().numpy().copy() for name, mask in self.masks.items()}

    def bake(self):
        """Writes W * M into the weights and takes the masks off: what is left is a stock model."""
        for hook in self.hooks:
            hook.remove()
        for _, _, _, linear in self.places:
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
