"""Profiles: named choices of settings, from minutes on a laptop to the authors' run on a GPU."""

SMALL = dict(model="all-MiniLM-L6-v2", batch_size=8, dropout=0.0)
BERT_ON_SQUAD = dict(model="bert-base-uncased", data="rajpurkar/squad", n_train=None, n_valid=500,
                     n_eval=None)
FINE_TUNE_BERT = dict(epochs=2, learning_rate=3e-5, warmup_fraction=0.1)
# Short runs need scores that start at the weights' magnitudes. No effect of the higher
# head learning rate was measured.
SHORT_RUN = dict(score_init=1.0, head_learning_rate=3e-3)
PROFILES: dict[str, dict[str, dict]] = {
    "quick": {  # CPU, no network, minutes
        "common": dict(SMALL, data="synthetic", n_train=2000, n_valid=100, n_eval=400,
                       max_length=160),
        "fine-tune": dict(epochs=2, learning_rate=3e-4, warmup_fraction=0.1),
        "smp": dict(epochs=3, **SHORT_RUN, density=0.1),
        "smp-kd": dict(epochs=3, **SHORT_RUN, density=0.5),
    },
    "laptop": {  # CPU, SQuAD with the small encoder
        "common": dict(SMALL, data="rajpurkar/squad", n_train=8000, n_valid=150, n_eval=None,
                       max_length=256),
        "fine-tune": dict(epochs=1.5, learning_rate=2e-4, warmup_fraction=0.1),
        "smp": dict(epochs=1.5, **SHORT_RUN, density=0.1),
        "smp-kd": dict(epochs=1.5, **SHORT_RUN, density=0.5),
    },
    "minilm": {  # GPU, all of SQuAD with the small encoder
        "common": dict(model="all-MiniLM-L6-v2", data="rajpurkar/squad", n_train=None, n_valid=0,
                       n_eval=None),
        "fine-tune": dict(epochs=3, learning_rate=2e-4, warmup_fraction=0.1),
        "smp": dict(head_learning_rate=3e-3, density=0.1, method="smp-s"),
        "smp-kd": dict(head_learning_rate=3e-3, density=0.5, method="smp-s"),
    },
    "squad": {  # GPU, BERT-base
        "common": BERT_ON_SQUAD,
        "fine-tune": FINE_TUNE_BERT,
        "smp": dict(epochs=5, density=0.1, method="smp-s"),
        "smp-kd": dict(epochs=5, density=0.5, method="smp-s"),
    },
    "paper": {  # GPU, BERT-base, the settings of the authors' code
        "common": {**BERT_ON_SQUAD, "n_valid": 0, "precision": "fp32"},
        "fine-tune": FINE_TUNE_BERT,
        "smp": dict(density=0.1, method="smp-s", optim="adamw_hf"),
        "smp-kd": dict(density=0.5, method="smp-s", optim="adamw_hf"),
    },
    "colab": {  # about 3 hours on a free T4 (calculated, not measured)
        "common": BERT_ON_SQUAD,
        "fine-tune": {**FINE_TUNE_BERT, "epochs": 1},
        "smp": dict(epochs=3, density=0.1, method="smp-s"),
        "smp-kd": dict(epochs=3, density=0.5, method="smp-s"),
    },
}
DEFAULT_PROFILE = "quick"  # with and without a GPU


def preset(stage: str, density: float, method: str) -> dict:
    """Return {setting: value} of the authors' scripts for a density, if not the defaults.

    Ramps are fractions of their steps: 27,670 in 10 epochs.
    """
    if density <= 0.03:
        return dict(epochs=20, density_ramp_fraction=22_650 / 55_340,
                    regulariser_ramp_fraction=27_660 / 55_340)
    if density >= 0.70 or (density, stage, method) == (0.50, "smp", "smp-s"):
        return dict(density_ramp_fraction=5_000 / 27_670, temperature=4.0)
    return {}
