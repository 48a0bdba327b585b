"""What runs would take on GPUs: calculated from the work and the cards' data sheets, not measured.

A step costs its matrix products, at a share of the card's peak, and its passes over memory, at a
share of its bandwidth. All shares are assumptions. In half precision: that training reaches 10 to
20% of the peak, on a T4 because 70 W throttle it, on the others because a batch of 32 windows is
too small for them, and on all because softmax, GELU, LayerNorm and dropout wait in between. In
fp32, without tensor cores, the products take far longer than what waits, so the share is higher.
"""

from smp.runs.settings import choose_settings

CARDS = {  # FLOP/s of dense fp16 or bf16, and of fp32; bytes/s of memory: of the data sheets
    "T4": {"half": 65e12, "fp32": 8.1e12, "bandwidth": 320e9},
    "A100": {"half": 312e12, "fp32": 19.5e12, "bandwidth": 1_555e9},
    "H100": {"half": 989e12, "fp32": 67e12, "bandwidth": 3_350e9},
}
SHARES = {"half": (0.10, 0.15, 0.20), "fp32": (0.40, 0.50, 0.60)}  # low, middle, high
SHARE_OF_BANDWIDTH = 0.7

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
TASKS = tuple(TRAINED)


def forward_flops(length, layers=12, width=768, inner=3072):
    """FLOPs of a token's forward in a window of so many tokens: products with the six matrices of
    each layer, and with the other tokens' keys and values."""
    return layers * (2 * (4 * width**2 + 2 * width * inner) + 4 * length * width)


def flops_per_token(length, **shape):
    """FLOPs of a token's training step: the backward has two products for each of the forward, for
    SMP too, whose scores take the weights' gradients."""
    return 3 * forward_flops(length, **shape)


def hours(task, card, level, profile, **changes):
    """Hours of one notebook on all of SQuAD: training, validations, evaluation, the teacher's pass
    where there is one; loading and pictures are not in it.

    level: which of SHARES, 0 to 2; changes: as `choose_settings` takes them.
    """
    settings = choose_settings(profile, task, **changes)
    kind = "fp32" if settings.precision == "fp32" else "half"
    (windows, tokens), (held_out, its_tokens) = SQUAD_WINDOWS[settings.max_length]
    rate = CARDS[card][kind] * SHARES[kind][level]
    one_way = forward_flops(tokens)
    steps = settings.epochs * windows / settings.batch_size
    training = settings.epochs * windows * tokens * flops_per_token(tokens) / rate
    training += steps * TRAINED[task] * BYTES[task] / (
        CARDS[card]["bandwidth"] * SHARE_OF_BANDWIDTH)
    looking = (held_out + settings.n_validations * settings.n_valid) * its_tokens * one_way / rate
    teacher = windows * tokens * one_way / rate if task == "smp-kd" else 0
    return (training + looking + teacher) / 3600


def table():
    """A profile's three notebooks on each card, in hours, as lines of text."""
    lines = ["Calculated, not measured: hours of a profile's notebooks with BERT-base on all of "
             "SQuAD, from the high to the low share of the card's peak",
             "profile  card  " + "  ".join(f"{task:>13}" for task in (*TASKS, "all three"))]
    for profile in ("colab", "squad", "paper"):
        for card in CARDS:
            spans = [[hours(task, card, level, profile) for task in TASKS] for level in (2, 0)]
            spans = [[*each, sum(each)] for each in spans]
            lines.append(f"{profile:8} {card:4}  " + "  ".join(
                f"{f'{low:.2f} to {high:.2f}':>13}" for low, high in zip(*spans, strict=True)))
    return "\n".join(lines)
