"""Time and memory of an SMP step, compared with a step of fine-tuning."""

from benchmarks.measure import BEST, DEFAULT, children_in_turns, device, result
from benchmarks.workload import SMALL_ENCODER, training
from smp.model.predict import pick_precision

CASES = (  # model, sizes, windows, tokens, measured steps
    ("BERT-base", {}, 8, 384, 2),
    ("BERT-base", {}, 4, 128, 5),
    ("small encoder", SMALL_ENCODER, 8, 160, 9),
)
WAYS = {"smp": "", "plain": DEFAULT, "fine-tune": BEST}


def measure():
    times, memory = [], []
    where = "GPU memory" if device() == "cuda" else "resident memory"
    for model, config, windows, tokens, steps in CASES:
        for precision in dict.fromkeys(["fp32", pick_precision()]):
            seconds, peaks = children_in_turns({way: (training, dict(
                way=way, windows=windows, tokens=tokens, steps=steps + 2, precision=precision,
                config=config)) for way in WAYS}, steps)
            name = f"{model}, {windows} windows of {tokens} tokens, {precision}"
            for way in ("plain", "fine-tune"):
                step = f"{seconds['smp'].min():.3g} s and {seconds[way].min():.3g} s"
                times.append(result(f"SMP step, {name}", WAYS[way], seconds[way] / seconds["smp"],
                                    f"10% of the weights kept; fastest steps {step}"))
                # The allocator keeps memory after a step, so the last steps show all of it.
                gigabytes = f"{peaks['smp'][-1] / 2**30:.2f} and {peaks[way][-1] / 2**30:.2f} GB"
                memory.append(result(
                    f"Peak memory, SMP, {name}", WAYS[way], peaks["smp"][-1:] / peaks[way][-1:],
                    f"{where} without the imports: {gigabytes}", "times the memory"))
    return times + memory
