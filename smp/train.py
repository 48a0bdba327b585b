# %% [markdown]
# ## Training and evaluation
#
# One loop serves every method: it has the steps of any training, and two places where pruning
# comes in when there is any, before the forward and after the backward. accelerate brings device,
# precision and processes: with several, each takes its rows of every batch, so that the batch as a
# whole, and with it the mask, is that of one.

# %%
import math
import os
import time
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedDataParallelKwargs, skip_first_batches
from accelerate.state import AcceleratorState
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup, set_seed

# %%
from smp.squad import make_loader

# %%
from smp.answers import SquadMetric, decode_answers

# %%
from smp.checkpoint import TrainingState, package_versions, windows_fingerprint

# %%
def pick_precision(wanted="auto"):
    """The wanted precision, or the one this device is fast at; "auto" never picks emulation."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    if torch.backends.mps.is_available():
        return "fp32"
    units = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if units.get("amx_bf16") or units.get("avx512_bf16") else "fp32"


def make_accelerator(precision="auto"):
    alike = DistributedDataParallelKwargs(broadcast_buffers=False)  # each finds the same mask
    mixed = pick_precision(precision).replace("fp32", "no")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        AcceleratorState._reset_state()  # else a kernel could train in one precision only
    return Accelerator(mixed_precision=mixed, kwargs_handlers=[alike])


def is_first_process():
    """Whether this is the process that writes and shows, by the launcher's RANK; one alone is."""
    return os.environ.get("RANK", "0") == "0"


def own_rows(batch, accelerator):
    """(this process's rows of a batch, on its device; their weight in the mean over all rows).

    "row", which tells a window's place, stays on the CPU, where what is looked up by it lies.

    The weight is n_own * processes / n_all, because gradients are averaged over the processes. A
    process that gets no row of a last, short batch takes one with weight 0.
    """
    here, processes = accelerator.process_index, accelerator.num_processes
    total = len(batch["row"])
    own = len(range(here, total, processes))
    rows = slice(here, None, processes) if own else slice(0, 1)
    own_batch = {
        name: value[rows] if name == "row" else value[rows].to(accelerator.device)
        for name, value in batch.items()
    }
    return own_batch, own * processes / total

# %%
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@torch.no_grad()
def predict_logits(model, features, tokenizer, precision="auto", batch_size=32, note="reading"):
    """Start and end logits, each float32 (n_features, longest), padded with -inf.

    Several processes share the windows out, and all return the logits of all.
    """
    accelerator = make_accelerator(precision)
    was_training = model.training
    model.to(accelerator.device).eval()
    longest = max(map(len, features["input_ids"]), default=0)
    start, end = (np.full((len(features), longest), -np.inf, dtype=np.float32) for _ in range(2))
    loader = make_loader(features, tokenizer, batch_size, shuffle=False)
    here, processes = accelerator.process_index, accelerator.num_processes
    with tqdm(total=len(features), desc=note, unit=" windows", leave=False,
              disable=here > 0 or len(loader) == 1) as bar:
        for number, batch in enumerate(loader):
            if number % processes == here:
                inputs = {k: batch[k].to(accelerator.device) for k in MODEL_INPUTS if k in batch}
                with accelerator.autocast():
                    out = model(**inputs)
                rows, length = batch["row"].numpy(), inputs["input_ids"].shape[1]
                real = batch["attention_mask"].numpy() == 1
                for kept, logits in ((start, out.start_logits), (end, out.end_logits)):
                    kept[rows, :length] = np.where(real, logits.float().cpu().numpy(), -np.inf)
            bar.update(len(batch["row"]))
    if processes > 1:  # what the others read is -inf here
        for kept in (start, end):
            every = torch.from_numpy(kept).to(accelerator.device)
            torch.distributed.all_reduce(every, torch.distributed.ReduceOp.MAX)
            kept[:] = every.cpu().numpy()
    model.train(was_training)
    return start, end


def evaluate_answers(model, examples, features, tokenizer, precision="auto", note="evaluating"):
    """({"em", "f1", "ms_per_question"}, predictions): one answer per example.

    Answers have at most 30 tokens. em and f1 are fractions; the milliseconds are this device's,
    reading in batches.
    """
    began = time.perf_counter()
    start, end = predict_logits(model, features, tokenizer, precision, note=note)
    seconds = time.perf_counter() - began
    predictions = decode_answers(examples, features, start, end)
    scores = SquadMetric().compute(
        predictions=[{k: p[k] for k in ("id", "prediction_text")} for p in predictions],
        references=[{"id": id, "answers": a} for id, a in zip(examples["id"], examples["answers"],
                                                              strict=True)],
    )
    return scores | {"ms_per_question": round(1000 * seconds / len(examples), 2)}, predictions


def validator(examples, features, tokenizer, precision="auto"):
    """model -> {"em", "f1"} on held-out questions; None where none were held out."""
    if len(examples) == 0:
        return None
    return lambda model: evaluate_answers(
        model, examples, features, tokenizer, precision, note="validating"
    )[0]

# %%
def parameter_groups(model, settings):
    """What is trained, with its learning rate: scores; weights; a new head and, where they are to
    be, biases and LayerNorms beside frozen matrices."""
    groups = {"scores": [], "weights": [], "vectors": [], "head": []}
    encoder = {id(parameter) for parameter in model.base_model.parameters()}
    fine_tuning = settings.task == "fine-tune"
    of_encoder = "weights" if fine_tuning or settings.method != "smp" else "vectors"
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = ("scores" if name.endswith(".scores")
                    else of_encoder if id(parameter) in encoder else "head")
            groups[part].append(parameter)
    if groups["weights"]:  # then the head is trained as they are
        groups["weights"] += groups.pop("head")
    rates = {
        "scores": settings.learning_rate, "head": settings.head_learning_rate,
        "vectors": settings.vector_learning_rate,
        "weights": settings.learning_rate if fine_tuning else settings.weight_learning_rate,
    }
    return [{"params": members, "lr": rates[part]} for part, members in groups.items() if members]


def span_loss(start_logits, end_logits, batch):
    """Mean of the cross-entropies of start and end. Logits (batch, length), labels (batch,)."""
    start = F.cross_entropy(start_logits, batch["start_positions"])
    end = F.cross_entropy(end_logits, batch["end_positions"])
    return (start + end) / 2

# %%
def endless_batches(loader, sampler, done):
    """Batches of one epoch after the other, each in a new order, without the first `done`."""
    epochs, skipped = divmod(done, len(loader))
    for _ in range(epochs):
        list(sampler)  # each order is drawn from the state the last one left
    if skipped:
        yield from skip_first_batches(loader, skipped)
    while True:
        yield from loader


def check_finite(loss, trained, step, settings, checkpoints=None):
    """FloatingPointError, one line, where the loss or what is trained is not finite any more."""
    what = "the loss" if not math.isfinite(loss) else None
    sums = torch.stack([part.detach().sum() for part in trained])  # one that is not finite shows
    if what is None and not bool(sums.isfinite().all()):
        what, loss = "a trained weight or score", "not finite"
    if what:
        good = checkpoints.paths()[:1] if checkpoints is not None else []
        rates = f"({settings.learning_rate:g})"
        if settings.trains_vectors:
            rates += f", that of vectors ({settings.vector_learning_rate:g})"
        raise FloatingPointError(
            f"{what} is {loss} at step {step:,}: lower the learning rate {rates}, or set precision "
            "to fp32"
            + (f"; the last good checkpoint is {good[0].name}" if good else "")
        )


def fit(model, features, tokenizer, settings, pruning=None, loss_function=span_loss, validate=None,
        checkpoints=None, snapshots=None):
    """Trains `model` in place; returns {"history", "steps", "seconds", ...}.

    features: windows with labels (`featurise`); pruning: a `Pruning`, or None to fine-tune;
    loss_function: (start logits, end logits, batch) -> scalar; validate: model -> {"em", "f1"},
    called settings.n_snapshots times; checkpoints: a `Checkpoints` to write, and to go on from;
    snapshots: a `SnapshotKeeper` for masks along the way.
    Raises FloatingPointError where loss or weights are no longer finite, ValueError where no window
    holds an answer or the checkpoints are those of another run, MemoryError on a full GPU.
    """
    if not any(features["start_positions"]):
        raise ValueError(
            f"none of the {len(features):,} training windows holds its answer, so there is nothing "
            f"to learn: check the data, or raise MAX_LENGTH={settings.max_length}"
        )
    set_seed(settings.seed)  # dropout is that of this run, whatever was drawn before
    accelerator = make_accelerator(settings.precision)
    loader = make_loader(features, tokenizer, settings.batch_size, shuffle=True, seed=settings.seed)
    steps, sampler = max(1, math.ceil(len(loader) * settings.epochs)), loader.sampler
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings), betas=(0.9, 0.999), weight_decay=0.0, fused=True
    )
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay = get_linear_schedule_with_warmup(optimizer, int(settings.warmup * steps), steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    zeros = "multiplied" if pruning is None else pruning.masks.zeros
    threads = torch.get_num_threads() if accelerator.device.type == "cpu" else None
    first = is_first_process()
    stops = {round(steps * (i + 1) / settings.n_snapshots) for i in range(settings.n_snapshots)}
    history = {name: [] for name in ("step", "loss", "density", "lambda",
                                     "valid_step", "valid_em", "valid_f1")}
    losses, done, before = [], 0, 0.0
    if checkpoints is not None:
        state = TrainingState(
            {names[id(parameter)]: parameter for parameter in trained}, optimizer, decay,
            accelerator.scaler,
            {"history": history, "losses": losses, "seconds": 0.0},
            {"settings": asdict(settings), "data": windows_fingerprint(features),
             **checkpoints.about, "versions": {
                 **package_versions(), "zeros": zeros, "device": accelerator.device.type,
                 "precision": pick_precision(settings.precision), "threads": threads}},
        )
        done, before = state.restore(checkpoints), state.curves["seconds"]
        if done and first:
            print(f"going on after step {done:,} of {steps:,}, from {checkpoints.folder}")
        if done == steps and pruning is not None:
            pruning.finish()
    keeps = snapshots is not None and pruning is not None and first
    kept_at = snapshots.begin(steps, settings, done) if keeps else ()
    if done == steps and done in kept_at:
        snapshots.keep(done, pruning.masks)

    began = time.perf_counter() - before
    batches = endless_batches(loader, sampler, done)
    bar = tqdm(zip(range(done, steps), batches), initial=done, total=steps, desc=settings.task,
               unit=" steps", disable=not first)
    for step, batch in bar:
        batch, share = own_rows(batch, accelerator)
        model.train()
        if pruning is not None:
            pruning.before_forward(step, steps)
        if step in kept_at:
            snapshots.keep(step, pruning.masks)
        try:
            out = model(**{k: batch[k] for k in MODEL_INPUTS if k in batch})
            loss = share * loss_function(out.start_logits.float(), out.end_logits.float(), batch)
            accelerator.backward(loss)
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"the GPU is full in step {step + 1}: lower batch_size={settings.batch_size} or "
                f"max_length={settings.max_length} ({str(error).splitlines()[0]})"
            ) from None
        accelerator.unscale_gradients()
        if pruning is not None:
            pruning.after_backward(step, steps)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()

        losses.append(accelerator.reduce(loss.detach(), "mean"))
        history["step"].append(step + 1)
        history["density"].append(pruning.density if pruning else 1.0)
        history["lambda"].append(pruning.weight if pruning else 0.0)
        if (step + 1) % 20 == 0 or step + 1 == steps:  # reading the loss waits for the device
            recent = float(torch.stack(losses[-20:]).mean())
            check_finite(recent, trained, step + 1, settings, checkpoints)
            bar.set_postfix(loss=f"{recent:.2f}", density=f"{history['density'][-1]:.0%}")
        if step + 1 == steps and pruning is not None:
            pruning.finish()
            if steps in kept_at:
                snapshots.keep(steps, pruning.masks)
        if step + 1 in stops and validate is not None:
            scores = validate(model)
            for name, value in (("step", step + 1), ("em", scores["em"]), ("f1", scores["f1"])):
                history[f"valid_{name}"].append(value)
        if first and checkpoints is not None and checkpoints.due():
            check_finite(float(losses[-1]), trained, step + 1, settings, checkpoints)
            state.save(checkpoints, step + 1, time.perf_counter() - began)
    bar.close()

    history["loss"] = torch.stack(losses).float().cpu().tolist()
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return {
        "history": history, "steps": steps,
        "seconds": round(time.perf_counter() - began, 1),
        "device": str(accelerator.device.type), "precision": pick_precision(settings.precision),
        "threads": threads, "zeros": zeros,
    }
