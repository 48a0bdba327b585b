"""Print the hours in docs/bert-base.md, calculated from the work and the cards' data sheets.

The time of a step is the sum of its matrix products, at a share of the card's peak, and of its
memory traffic, at a share of the bandwidth. All shares are assumptions. In half precision, training
is assumed to reach 10 to 20% of the peak. A T4 is limited to 70 W, and for the other cards a batch
of 32 windows is too small. On all cards softmax, GELU, LayerNorm and dropout add time. In fp32,
without tensor cores, the products take much longer than these operations, so the share is higher.
"""

from smp.runs.settings import choose_settings

CARDS = {  # from the data sheets: FLOP/s of dense fp16 or bf16 and of fp32, bytes/s of memory
    "T4": {"half": 65e12, "fp32": 8.1e12, "bandwidth": 320e9},
    "A100": {"half": 312e12, "fp32": 19.5e12, "bandwidth": 1_555e9},
    "H100": {"half": 989e12, "fp32": 67e12, "bandwidth": 3_350e9},
}
SHARES = {"half": (0.10, 0.15, 0.20), "fp32": (0.40, 0.50, 0.60)}  # low, middle, high
SHARE_OF_BANDWIDTH = 0.7

# Windows of SQuAD v1.1 with the uncased vocabulary and stride 128; tokens with the padding of
# batches of 32 by length. {max_length: ((windows, tokens per window) of train, of dev)}
SQUAD_WINDOWS = {
    256: ((97_408, 170.3), (12_097, 174.7)),
    384: ((88_524, 174.0), (10_784, 179.3)),
}

# Bytes per step for each trained parameter, in addition to the products. AdamW in fp32 reads
# four numbers and writes three: 28; norm and clipping 12; the cast to fp16 and its gradient 12.
# SMP: W * M and its backward 21, the regulariser 12, top-k and the new mask 40.
BYTES = {"fine-tune": 52, "smp": 125, "smp-kd": 125}
TRAINED = {"fine-tune": 109.5e6, "smp": 84.9e6, "smp-kd": 84.9e6}
TASKS = tuple(TRAINED)


def forward_flops(length, layers=12, width=768, inner=3072):
    """Return the FLOPs of one token's forward in a window of `length` tokens.

    They are the products with the six matrices of each layer and with the keys and values.
    """
    return layers * (2 * (4 * width**2 + 2 * width * inner) + 4 * length * width)


def hours(task, card, level, profile, **changes):
    """Return the hours of one notebook on all of SQuAD.

    They include training, validations, evaluation and the teacher's pass, but not loading and
    pictures. level: index of SHARES, 0 to 2; changes: arguments of `choose_settings`.
    """
    settings = choose_settings(profile, task, **changes)
    kind = "fp32" if settings.precision == "fp32" else "half"
    (windows, tokens), (held_out, its_tokens) = SQUAD_WINDOWS[settings.max_length]
    rate = CARDS[card][kind] * SHARES[kind][level]
    one_way = forward_flops(tokens)
    steps = settings.epochs * windows / settings.batch_size
    # The backward has two products for each product of the forward, also in SMP: its scores need
    # the gradients of the weights.
    training = settings.epochs * windows * tokens * 3 * one_way / rate
    training += steps * TRAINED[task] * BYTES[task] / (
        CARDS[card]["bandwidth"] * SHARE_OF_BANDWIDTH)
    looking = (held_out + settings.n_validations * settings.n_valid) * its_tokens * one_way / rate
    teacher = windows * tokens * one_way / rate if task == "smp-kd" else 0
    return (training + looking + teacher) / 3600


def rows():
    """Return the rows of the table in docs/bert-base.md, from the high to the low share."""
    lines = []
    for profile, name, tasks, changes in (
        ("colab", "three notebooks", TASKS, {}), ("squad", "three notebooks", TASKS, {}),
        ("paper", "three notebooks, fp32", TASKS, {}),
        ("paper", "SMP + KD at 3%", ("smp-kd",), {"density": 0.03}),
    ):
        spans = [[sum(hours(task, card, level, profile, **changes) for task in tasks)
                  for level in (2, 0)] for card in CARDS]
        lines.append(" | ".join([f"| `{profile}`, {name}"] + [
            f"{low:.1f} to {high:.1f}" for low, high in spans]) + " |")
    return lines


if __name__ == "__main__":
    print(*rows(), sep="\n")
