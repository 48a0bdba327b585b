"""Published numbers: the paper's, and the table that this project started from."""

PUBLISHED: dict = {
    "source": "Jiang et al., Pruning Pre-trained Language Models Without Fine-Tuning, ACL 2023, "
    "arXiv 2210.06210 (SMP: mean of 5 seeds; the other methods as it quotes them)",
    "model": "BERT-base",
    "data": "SQuAD v1.1 dev",
    "params_total": 109_482_240,
    "params_masked": 84_934_656,
    "rows": [
        {"method": method, "distill": distill, "density": density, "em": em, "f1": f1}
        for method, distill, density, em, f1 in (
            ("fine-tuned", "none", 1.00, 0.804, 0.881),
            ("smp-l", "none", 0.10, 0.750, 0.843), ("smp-s", "none", 0.10, 0.751, 0.846),
            ("smp-l", "none", 0.03, 0.707, 0.810), ("smp-s", "none", 0.03, 0.709, 0.814),
            ("smp-l", "logits", 0.50, 0.822, 0.894), ("smp-s", "logits", 0.50, 0.828, 0.898),
            ("smp-l", "logits", 0.10, 0.789, 0.869), ("smp-s", "logits", 0.10, 0.793, 0.872),
            ("smp-l", "logits", 0.03, 0.740, 0.834), ("smp-s", "logits", 0.03, 0.750, 0.841),
            ("movement", "none", 0.10, 0.719, 0.817), ("movement", "none", 0.03, 0.652, 0.763),
            ("soft-movement", "none", 0.10, 0.713, 0.815),
            ("soft-movement", "none", 0.03, 0.695, 0.799),
            ("magnitude", "logits", 0.10, 0.702, 0.801),
            ("magnitude", "logits", 0.03, 0.455, 0.596),
            ("movement", "logits", 0.50, 0.798, 0.876),
            ("movement", "logits", 0.10, 0.756, 0.843),
            ("movement", "logits", 0.03, 0.675, 0.780),
            ("soft-movement", "logits", 0.10, 0.766, 0.849),
            ("soft-movement", "logits", 0.03, 0.727, 0.823),
        )
    ],
}
GIVEN_TABLE: dict = {
    "source": "the table this project started from; its runs, data and seeds are not on record",
    "rows": [
        {"label": "fine-tuned", "density": 1.00, "size": "~110M", "em": 0.65},
        {"label": "SMP", "density": 0.10, "size": "~85M", "em": 0.75},
        {"label": "SMP + KD", "density": 0.50, "size": "~85M", "em": 0.82},
    ],
}


def whole_model_share(density: float, params_masked: int, params_total: int) -> float:
    """Return the fraction of all parameters left when `density` of the masked ones is kept."""
    return 1 - params_masked * (1 - density) / params_total
