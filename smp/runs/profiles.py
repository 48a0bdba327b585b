"""Settings and profiles.

Every run is described by one frozen set of plain numbers. A *profile* is a named choice of
them: a smaller profile has smaller numbers, never other code. Whatever you change in the
parameter cell replaces the profile's value, and the record of the run keeps the whole set.
"""

BOTH_TASKS, BOTH_SHARINGS = ("smp", "smp-kd"), ("local", "shared")
EARLY = dict(density_ramp=5_000 / 27_670)
LONG = dict(epochs=20, density_ramp=22_650 / 55_340, regulariser_ramp=27_660 / 55_340)
PRESETS = (  # densities from, to; tasks; sharings; what is set
    (0.70, 1.00, BOTH_TASKS, BOTH_SHARINGS, EARLY | dict(temperature=4.0)),
    (0.50, 0.50, ("smp",), ("shared",), EARLY | dict(temperature=4.0)),
    (0.00, 0.03, BOTH_TASKS, BOTH_SHARINGS, LONG),
)


def preset(task, density, sharing):
    """{setting: value} that the authors use for a density, where it differs from the defaults."""
    return {
        name: value for low, high, tasks, sharings, values in PRESETS
        if low <= density <= high and task in tasks and sharing in sharings
        for name, value in values.items()
    }

# The profiles. `quick` needs neither a GPU nor a network and takes minutes on a laptop; `squad`
# is the everyday run on a GPU; `paper` has the settings of the authors' code; `colab` is cut
# to one session on a free T4; `laptop` is real SQuAD with the small encoder, on a CPU; `minilm`
# is all of it with that encoder and the authors' ten epochs, on a GPU.
#
# Of `colab`, an epoch is 88,524 windows of 174 tokens on average, at 529 MFLOP a token: 8.1 PFLOP.
# A T4 that reaches a tenth of its 65 TFLOP/s, as we assume, needs 21 minutes for it, and 2.9 hours
# for the three notebooks in all (calculated in benchmarks/run_on_gpus.py, not measured). Windows of
# 256 would be more tokens, 16.6 million, because more of them overlap, and miss more answers.
BERT_ON_SQUAD = dict(
    model="bert-base-uncased", data="rajpurkar/squad", n_train=None, n_valid=500, n_eval=None
)
FINE_TUNE_BERT = dict(epochs=2, learning_rate=3e-5, warmup=0.1)

# Short runs start from the weights' magnitudes, without which they come to little (except where the
# teacher's layers are followed at a high rate), and let the new head learn faster, which makes no
# difference that was measured (results/tried/).
SHORT_RUN = dict(score_start=1.0, head_learning_rate=3e-3)
PROFILES = {
    "quick": {
        "common": dict(
            model="all-MiniLM-L6-v2", data="almanac", n_train=2000, n_valid=100, n_eval=400,
            max_length=160, batch_size=8, dropout=0.0,
        ),
        "fine-tune": dict(epochs=1, learning_rate=3e-4, warmup=0.1),
        "smp": dict(epochs=1, **SHORT_RUN, density=0.1),
        "smp-kd": dict(epochs=1, **SHORT_RUN, density=0.5),
    },
    "laptop": {
        "common": dict(
            model="all-MiniLM-L6-v2", data="rajpurkar/squad", n_train=8000, n_valid=150,
            n_eval=None, max_length=256, batch_size=8, dropout=0.0,
        ),
        "fine-tune": dict(epochs=1.5, learning_rate=2e-4, warmup=0.1),
        "smp": dict(epochs=1.5, **SHORT_RUN, density=0.1),
        "smp-kd": dict(epochs=1.5, **SHORT_RUN, density=0.5),
    },
    "minilm": {
        "common": dict(
            model="all-MiniLM-L6-v2", data="rajpurkar/squad", n_train=None, n_valid=0, n_eval=None,
        ),
        "fine-tune": dict(epochs=3, learning_rate=2e-4, warmup=0.1),
        "smp": dict(head_learning_rate=3e-3, density=0.1, sharing="shared"),
        "smp-kd": dict(head_learning_rate=3e-3, density=0.5, sharing="shared"),
    },
    "squad": {
        "common": BERT_ON_SQUAD,
        "fine-tune": FINE_TUNE_BERT,
        "smp": dict(epochs=5, density=0.1, sharing="shared"),
        "smp-kd": dict(epochs=5, density=0.5, sharing="shared"),
    },
    "paper": {
        "common": {**BERT_ON_SQUAD, "n_valid": 0, "precision": "fp32"},
        "fine-tune": FINE_TUNE_BERT,
        "smp": dict(density=0.1, sharing="shared"),
        "smp-kd": dict(density=0.5, sharing="shared"),
    },
    "colab": {
        "common": BERT_ON_SQUAD,
        "fine-tune": {**FINE_TUNE_BERT, "epochs": 1},
        "smp": dict(epochs=3, density=0.1, sharing="shared"),
        "smp-kd": dict(epochs=3, density=0.5, sharing="shared"),
    },
}


# A value that cannot work is refused here, before anything is loaded or written.
def default_profile():
    """`squad` where there is a GPU, `quick` where there is none."""
    import torch

    return "squad" if torch.cuda.is_available() else "quick"
