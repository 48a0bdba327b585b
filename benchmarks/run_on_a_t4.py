"""What a run would take on a T4: calculated from the work and the card's data sheet, not measured.

A step costs its matrix products, at a share of the card's peak, and its passes over memory, at a
share of its bandwidth. Both shares are assumptions: that training reaches 10 to 20% of a T4's fp16
peak, because 70 W throttle it and because softmax, GELU, LayerNorm and dropout wait in between.
"""

from smp.settings import choose_settings

PEAK, BANDWIDTH = 65e12, 320e9  # FLOP/s in fp16 and bytes/s, of the data sheet
SHARES_OF_PEAK, SHARE_OF_BANDWIDTH = (0.10, 0.15, 0.20), 0.7

# SQuAD v1.1 cut by the uncased vocabulary, stride 128; tokens with the padding of batches of 32
# by length. {max_length: ((windows, tokens a window) of train, of dev)}
SQUAD_WINDOWS = {
    256: ((97_408, 170.3), (12_097, 174.7)),
    384: ((88_524, 174.0), (10_784, 179.3)),
}

# Bytes a step moves for each parameter that is trained, besides the products. AdamW in fp32 reads
# four numbers and writes three: 28; norm and clipping 12; the cast to fp16 and its gradient 12.
# SMP: W * M and its backward 21, the regulariser 12, top-k and the new mask 40.
BYTES = {"fine-tune": 52, "smp": 125, "smp-kd": 125}
TRAINED = {"fine-tune": 109.5e6, "smp": 84.9e6, "smp-kd": 84.9e6}


def forward_flops(length, layers=12, width=768, inner=3072):
    """FLOPs of a token's forward in a window of so many tokens: products with the six matrices of
    each layer, and with the other tokens' keys and values."""
    return layers * (2 * (4 * width**2 + 2 * width * inner) + 4 * length * width)


def flops_per_token(length, **shape):
    """FLOPs of a token's training step: the backward has two products for each of the forward, for
    SMP too, whose scores take the weights' gradients."""
    return 3 * forward_flops(length, **shape)


def hours(task, share, profile="colab"):
    """Hours of one notebook on all of SQuAD: training, validations, evaluation, the teacher's pass
    where there is one; loading and pictures are not in it."""
    settings = choose_settings(profile, task)
    (windows, tokens), (held_out, its_tokens) = SQUAD_WINDOWS[settings.max_length]
    rate, one_way = PEAK * share, forward_flops(tokens)
    steps = settings.epochs * windows / settings.batch_size
    training = settings.epochs * windows * tokens * flops_per_token(tokens) / rate
    training += steps * TRAINED[task] * BYTES[task] / (BANDWIDTH * SHARE_OF_BANDWIDTH)
    looking = (held_out + settings.n_snapshots * settings.n_valid) * its_tokens * one_way / rate
    teacher = windows * tokens * one_way / rate if task == "smp-kd" else 0
    return (training + looking + teacher) / 3600


def table():
    """The profile's three notebooks on a T4, in hours, as lines of text."""
    tasks = ("fine-tune", "smp", "smp-kd")
    epochs = ", ".join(f"{choose_settings('colab', task).epochs:g}" for task in tasks)
    lines = [f"Calculated, not measured: profile colab on a T4 ({epochs} epochs), hours",
             "share of peak  " + "  ".join(f"{task:>9}" for task in tasks) + "        all"]
    for share in SHARES_OF_PEAK:
        each = [hours(task, share) for task in tasks]
        lines.append(f"{share:13.0%}  " + "  ".join(f"{h:9.2f}" for h in (*each, sum(each))))
    return "\n".join(lines)
