"""h: peak memory of training, SMP compared with fine-tuning, each in its own process."""

from benchmarks.measure import MALLOC, device, peak_memories, result
from benchmarks.steps import LARGE, SMALL
from benchmarks.workload import training


def train(task, batch_size, length):
    """Train for two steps and a short one; the first, with 8 tokens, creates Adam's state."""
    model, run = training(batch_size, length, 2, task, loss=any_loss)

    def shorten(model, _, inputs):
        handle.remove()
        return (), {name: tensor[:, :8] for name, tensor in inputs.items()}

    handle = model.register_forward_pre_hook(shorten, with_kwargs=True)
    run()


def any_loss(start_logits, end_logits, _):
    """Return a loss without labels, because a label may be after the eight tokens."""
    return start_logits.mean() + end_logits.mean()


def measure():
    results = []
    for batch_size, length in (SMALL, LARGE):
        plain, ours = peak_memories(
            train, [{"task": "fine-tune"}, {"task": "smp"}], batch_size=batch_size, length=length
        )
        results.append(result(
            f"h: peak memory of SMP / fine-tuning, {batch_size} x {length}, fp32",
            ours / plain, goal="<= 1.0",
            detail=f"{ours / 2**30:.2f} GB; " + (
                "of the GPU" if device() == "cuda"
                else "resident, " + ", ".join(f"{k}={v}" for k, v in MALLOC.items())
            ),
        ))
    return results
