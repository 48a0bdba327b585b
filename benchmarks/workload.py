"""Models, windows, and trainings that take their steps in turns."""

import functools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

from benchmarks.measure import ROOT, device
from benchmarks.references import train_plainly
from smp.cli.train import attach_pruning, train
from smp.data.reading import load_squad
from smp.data.windows import make_loader
from smp.fast.buffers import buffered_forward
from smp.method.loop import span_loss
from smp.model.load import EMBEDDED_ENCODER, load_pretrained
from smp.runs.settings import choose_settings


@functools.cache
def embedded_tokenizer():
    return load_pretrained(AutoTokenizer, EMBEDDED_ENCODER)


@functools.cache
def questions():
    """Return (DatasetDict, its name): DATA, ../shared/data/squad, or synthetic."""
    shared = ROOT.parent / "shared" / "data" / "squad"
    data = os.environ.get("DATA") or (str(shared) if shared.is_dir() else "synthetic")
    counts = {"n_train": 8000, "n_eval": 2000} if data == "synthetic" else {}
    return load_squad(data, **counts), os.path.basename(data.rstrip("/"))


def bert(**changes):
    """Return a BERT-base with random weights, or a BERT of another size, on the device."""
    torch.manual_seed(0)
    return BertForQuestionAnswering(BertConfig(**changes)).to(device())


def random_windows(count, length, seed=0):
    """Return windows of random tokens of one length, in the form of `featurise`."""
    rng = np.random.default_rng(seed)
    ones = np.ones((count, length), dtype=np.int8)
    ends = np.sort(rng.integers(1, length, (2, count)), axis=0)
    return Dataset.from_dict({
        "input_ids": rng.integers(1000, 20_000, (count, length), dtype=np.int32),
        "attention_mask": ones, "token_type_ids": 0 * ones,
        "start_positions": ends[0], "end_positions": ends[1],
    })


def training(batch_size, length, steps, task="smp", precision="fp32", loss=span_loss,
             density=0.1, skips=True, **config):
    """Return (model, function that trains it with `fit` for `steps` steps) for SMP or fine-tuning.

    skips: False to multiply the zeros, as without a C compiler. One more step with one window
    follows, because its start marks the end of the last step. The scores start at the magnitudes
    of the weights, so all scores differ from the first step on, as in most steps of a run.
    """
    model = bert(**config)
    settings = choose_settings(
        "squad", task, batch_size=batch_size, epochs=1, precision=precision, n_validations=0,
        max_length=length, stride=0, score_init=1.0,
        **({} if task == "fine-tune" else {
            "density": density, "density_ramp_fraction": 1 / (steps + 1)}),
    )
    pruning = None if task == "fine-tune" else attach_pruning(model, settings)
    for *_, linear in pruning.masks.matrices if pruning and not skips else ():
        type(linear).forward = buffered_forward
    windows = random_windows(steps * batch_size + 1, length)
    return model, lambda: train(model, windows, embedded_tokenizer(), settings, pruning, loss)


def plainly(model, batch_size, length, steps, **how):
    """Return a function that trains a model with `train_plainly` for `steps` steps.

    how: its scores and its teacher. An empty call of the model then marks the end of the last step.
    """
    windows = random_windows(steps * batch_size, length)
    loader = make_loader(windows, embedded_tokenizer(), batch_size, shuffle=False)
    batches = [{k: v.to(device()) for k, v in batch.items()} for batch in loader]

    def run():
        train_plainly(model, batches, **how)
        model.forward = lambda: None
        model()

    return run


def steps_in_turns(trainings, warm_up=1):
    """Run trainings {name: (model, run)} in turns, one step each; return {name: seconds of steps}.

    Each training runs in its own thread. It stops when its model is called, and the next training
    continues. A step is the time from one forward to the next. The first `warm_up` steps and the
    last step, which includes the end of the run, are not counted.
    """
    order, seconds = list(trainings), {name: [] for name in trainings}
    turn = {name: threading.Semaphore(0) for name in trainings}
    began = {}

    def pass_on(name):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if name in began:
            seconds[name].append(now - began[name])
        turn[order[(order.index(name) + 1) % len(order)]].release()

    def run(name):
        model, train = trainings[name]

        def pause(*_):
            pass_on(name)
            turn[name].acquire()
            began[name] = time.perf_counter()

        turn[name].acquire()
        # accelerate keeps one precision per process, so each training gets its own state
        AcceleratorState._shared_state = {}
        handle = model.register_forward_pre_hook(pause)
        try:
            train()
        finally:
            handle.remove()
            pass_on(name)
            order.remove(name)

    with ThreadPoolExecutor(len(trainings)) as threads:
        running = [threads.submit(run, name) for name in trainings]
        turn[order[0]].release()
        for one in running:
            one.result()
    return {name: np.array(times[warm_up:-1]) for name, times in seconds.items()}
