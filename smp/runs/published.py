"""Numbers that others report: the paper's, and the table this project started from."""

PUBLISHED: dict = {
    "source": "Jiang et al., Pruning Pre-trained Language Models Without Fine-Tuning, ACL 2023, "
    "arXiv 2210.06210 (SMP: mean of 5 seeds; the other methods as it quotes them)",
    "model": "BERT-base",
    "data": "SQuAD v1.1 dev",
    "params_total": 109_482_240,
    "params_masked": 84_934_656,
    "rows": [
        {"method": method, "sharing": sharing, "density": density, "em": em, "f1": f1}
        for method, sharing, density, em, f1 in (
            ("fine-tuned", None, 1.00, 0.804, 0.881),
            ("SMP", "SMP-L", 0.10, 0.750, 0.843), ("SMP", "SMP-S", 0.10, 0.751, 0.846),
            ("SMP", "SMP-L", 0.03, 0.707, 0.810), ("SMP", "SMP-S", 0.03, 0.709, 0.814),
            ("SMP + KD", "SMP-L", 0.50, 0.822, 0.894), ("SMP + KD", "SMP-S", 0.50, 0.828, 0.898),
            ("SMP + KD", "SMP-L", 0.10, 0.789, 0.869), ("SMP + KD", "SMP-S", 0.10, 0.793, 0.872),
            ("SMP + KD", "SMP-L", 0.03, 0.740, 0.834), ("SMP + KD", "SMP-S", 0.03, 0.750, 0.841),
            ("movement", None, 0.10, 0.719, 0.817), ("movement", None, 0.03, 0.652, 0.763),
            ("soft movement", None, 0.10, 0.713, 0.815),
            ("soft movement", None, 0.03, 0.695, 0.799),
            ("magnitude + KD", None, 0.10, 0.702, 0.801),
            ("magnitude + KD", None, 0.03, 0.455, 0.596),
            ("movement + KD", None, 0.50, 0.798, 0.876),
            ("movement + KD", None, 0.10, 0.756, 0.843),
            ("movement + KD", None, 0.03, 0.675, 0.780),
            ("soft movement + KD", None, 0.10, 0.766, 0.849),
            ("soft movement + KD", None, 0.03, 0.727, 0.823),
        )
    ],
}
GIVEN_TABLE: dict = {
    "source": "the table this project started from; its runs, data and seeds are not on record",
    "rows": [
        {"method": "fine-tuned", "density": 1.00, "size": "~110M", "em": 0.65},
        {"method": "SMP", "density": 0.10, "size": "~85M", "em": 0.75},
        {"method": "SMP + KD", "density": 0.50, "size": "~85M", "em": 0.82},
    ],
}


def whole_model_share(density: float, params_masked: int, params_total: int) -> float:
    """Return the fraction of all parameters left when `density` of the masked ones is kept."""
    return 1 - params_masked * (1 - density) / params_total
