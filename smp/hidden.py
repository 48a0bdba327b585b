# %% [markdown]
# ### What the teacher sees on the way
#
# Logits are two numbers a token. Between them and the words lie the encoder's layers, and a teacher
# with as many of the same width can show each of its student's layers where to go:
# $$H = \frac{1}{L}\sum_{l=1}^{L}
# \frac{\sum_t \lVert h_{l,t}^{student} - h_{l,t}^{teacher} \rVert^2}
# {\sum_t \lVert h_{l,t}^{teacher} \rVert^2},$$
# over the tokens $t$ that are not padding. The loss gets $\beta H$ besides. SMP has no such term
# ($\beta = 0$); TinyBERT (Jiao et al. 2020) has one like it. It pulls at the scores much harder
# than the answers do, beside which the regulariser's $\lambda$ counts for less: where very little
# is to stay, raise it (`regulariser`). Hidden states are too many to be kept (SQuAD's windows have
# 280 GB of them in BERT-base, as fp16), so with it the teacher reads every batch along, and is not
# asked for its logits before.

# %%
import torch

# %%
from smp.masks import encoder_stacks

# %%
from smp.train import MODEL_INPUTS, make_accelerator

# %%
def hidden_distance(student, teacher, attention_mask):
    """H, the mean over the layers of the squared distance, in units of the teacher's squared norm.

    student, teacher: as many (batch, length, hidden); attention_mask (batch, length): padding does
    not count. Of several processes each takes its own rows' share.
    """
    real = attention_mask.bool().unsqueeze(-1)
    shares = []
    for ours, theirs in zip(student, teacher, strict=True):
        apart = (ours.float() - theirs.float()).masked_fill(~real, 0).square().sum()
        shares.append(apart / theirs.float().masked_fill(~real, 0).square().sum())
    return torch.stack(shares).mean()

# %%
def watch_layers(model, with_gradients):
    """[output of each run of an encoder layer (batch, length, hidden)] of the last forward, filled
    by hooks; and the hooks. with_gradients: pass over forwards without, which are evaluations.

    ALBERT runs one layer many times: each run counts.
    """
    seen = []

    def keep(block, inputs, output):
        if torch.is_grad_enabled() == with_gradients:
            seen.append(output[0] if isinstance(output, tuple) else output)

    (stack,) = encoder_stacks(model).values()
    hooks = [block.register_forward_hook(keep) for block in stack]
    hooks.append(model.base_model.register_forward_pre_hook(lambda *_: seen.clear()))
    return seen, hooks


def check_layers(student, teacher):
    """ValueError with one line unless the configs are of as many layers of one width."""
    (layers, width), (theirs, wide) = (
        (config.num_hidden_layers, config.hidden_size) for config in (student, teacher)
    )
    if (layers, width) != (theirs, wide):
        raise ValueError(
            f"HIDDEN_WEIGHT needs a teacher with the student's {layers} layers of {width}, this "
            f"one has {theirs} of {wide}: name another TEACHER, or set hidden_weight=0"
        )


class HiddenTeacher:
    """A teacher that reads every batch along: its logits, and H between the two models' layers.

    student, teacher: stock models; the student may have masks. Raises ValueError with one line
    where they differ in the number of their layers or in their width.
    """

    def __init__(self, student, teacher, precision="auto"):
        check_layers(student.config, teacher.config)
        self.accelerator = make_accelerator(precision)
        self.teacher = teacher.to(self.accelerator.device).eval()
        self.ours, _ = watch_layers(student, with_gradients=True)

    def read(self, batch):
        """(the teacher's logits (batch, length, 2), H) after the student's training forward of the
        same batch."""
        theirs, hooks = watch_layers(self.teacher, with_gradients=False)
        with torch.no_grad(), self.accelerator.autocast():
            out = self.teacher(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
        for hook in hooks:
            hook.remove()
        distance = hidden_distance(self.ours, theirs, batch["attention_mask"])
        self.ours.clear()
        return torch.stack([out.start_logits, out.end_logits], dim=-1).float(), distance
