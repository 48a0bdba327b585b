"""Results: one file a run, and tables computed from them.

Each run leaves one JSON file in `results/`: what was trained on what, with which settings and
versions, how much of the model is left, and how many questions it answers. The tables are
computed from these files and never typed, so a number in the README can be followed back to
the run it came from.

A run's name ends in six digits of a hash of its settings, its model and its data. The same
settings therefore give the same name, and a rerun replaces its own record and no other. Settings
at their defaults do not count, so that a new one leaves the old names as they are.
"""

PUBLISHED = {
    "source": "Jiang et al., Pruning Pre-trained Language Models Without Fine-Tuning, ACL 2023, "
    "arXiv 2210.06210 (SMP: mean of 5 seeds; the other methods as it quotes them)",
    "model": "BERT-base",
    "data": "SQuAD v1.1 dev",
    "params_total": 109_482_240,
    "params_masked": 84_934_656,
    "rows": [
        {"method": "fine-tuned", "sharing": None, "density": 1.00, "em": 0.804, "f1": 0.881},
        {"method": "SMP", "sharing": "SMP-L", "density": 0.10, "em": 0.750, "f1": 0.843},
        {"method": "SMP", "sharing": "SMP-S", "density": 0.10, "em": 0.751, "f1": 0.846},
        {"method": "SMP", "sharing": "SMP-L", "density": 0.03, "em": 0.707, "f1": 0.810},
        {"method": "SMP", "sharing": "SMP-S", "density": 0.03, "em": 0.709, "f1": 0.814},
        {"method": "SMP + KD", "sharing": "SMP-L", "density": 0.50, "em": 0.822, "f1": 0.894},
        {"method": "SMP + KD", "sharing": "SMP-S", "density": 0.50, "em": 0.828, "f1": 0.898},
        {"method": "SMP + KD", "sharing": "SMP-L", "density": 0.10, "em": 0.789, "f1": 0.869},
        {"method": "SMP + KD", "sharing": "SMP-S", "density": 0.10, "em": 0.793, "f1": 0.872},
        {"method": "SMP + KD", "sharing": "SMP-L", "density": 0.03, "em": 0.740, "f1": 0.834},
        {"method": "SMP + KD", "sharing": "SMP-S", "density": 0.03, "em": 0.750, "f1": 0.841},
    ] + [
        {"method": method, "sharing": None, "density": density, "em": em, "f1": f1}
        for method, density, em, f1 in (
            ("movement", 0.10, 0.719, 0.817), ("movement", 0.03, 0.652, 0.763),
            ("soft movement", 0.10, 0.713, 0.815), ("soft movement", 0.03, 0.695, 0.799),
            ("magnitude + KD", 0.10, 0.702, 0.801), ("magnitude + KD", 0.03, 0.455, 0.596),
            ("movement + KD", 0.50, 0.798, 0.876), ("movement + KD", 0.10, 0.756, 0.843),
            ("movement + KD", 0.03, 0.675, 0.780), ("soft movement + KD", 0.10, 0.766, 0.849),
            ("soft movement + KD", 0.03, 0.727, 0.823),
        )
    ],
}
GIVEN_TABLE = {
    "source": "the table this project started from; its runs, data and seeds are not on record",
    "rows": [
        {"method": "fine-tuned", "density": 1.00, "size": "~110M", "em": 0.65},
        {"method": "SMP", "density": 0.10, "size": "~85M", "em": 0.75},
        {"method": "SMP + KD", "density": 0.50, "size": "~85M", "em": 0.82},
    ],
}


def whole_model_share(density: float, params_masked: int, params_total: int) -> float:
    """Share of all parameters left when `density` of the masked ones is kept, in [0, 1]."""
    return 1 - params_masked * (1 - density) / params_total
