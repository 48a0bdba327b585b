"""The data: SQuAD v1.1.

Extractive question answering (Rajpurkar et al., 2016): given a question and a paragraph, the
answer is a span of the paragraph, stated as its text and the character where it starts. The
data may come from the embedded almanac, from a SQuAD JSON file or folder, or from the Hub; it
is checked and given the same types either way, because a label that points at the wrong
characters does not crash anything: it only makes the model worse.
"""

import numpy as np
import pyarrow.compute
import torch
from accelerate import skip_first_batches
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler


def make_loader(features, tokenizer, batch_size, shuffle, seed=0):
    """DataLoader of dicts of int64 tensors (B, longest in batch), with "row": (B,) in features.

    Shuffled: batches of similar length, another order at each iteration, all fixed by `seed`
    (the order's state is `loader.sampler.generator`). Not shuffled: longest first, always alike.
    """
    if len(features) == 0:
        raise ValueError("no features to load batches from; give at least one question")
    columns = features.with_format("arrow")[:]
    lengths = pyarrow.compute.list_value_length(columns["input_ids"]).to_numpy()
    first = np.cumsum(lengths) - lengths  # where each window begins in `tokens`
    padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0,
               "token_type_ids": tokenizer.pad_token_type_id}
    tokens = {name: pyarrow.compute.list_flatten(columns[name]).to_numpy()
              for name in padding if name in features.column_names}
    labels = {name: columns[name].to_numpy() for name in ("start_positions", "end_positions")
              if name in features.column_names}
    if shuffle:
        order = torch.Generator().manual_seed(seed)
        sampler = LengthGroupedSampler(batch_size, lengths=lengths.tolist(), generator=order)
    else:
        sampler = np.argsort(-lengths, kind="stable").tolist()

    def collate(rows):
        # padded on the right whatever the tokenizer prefers, so that token i is offset i
        place = np.arange(lengths[rows].max())
        inside = place < lengths[rows, None]  # (B, longest)
        where = np.where(inside, first[rows, None] + place, 0)
        batch = {"row": np.array(rows)} | {name: values[rows] for name, values in labels.items()}
        for name, values in tokens.items():
            batch[name] = np.where(inside, values[where], padding[name])
        return {name: torch.from_numpy(values.astype(np.int64)) for name, values in batch.items()}

    # its own generator: otherwise each epoch would draw a number from torch's global one
    return DataLoader(
        range(len(features)), batch_size, sampler=sampler, collate_fn=collate,
        generator=torch.Generator(),
    )


def endless_batches(loader, sampler, done):
    """Batches of one epoch after the other, each in a new order, without the first `done`."""
    epochs, skipped = divmod(done, len(loader))
    for _ in range(epochs):
        list(sampler)  # each order is drawn from the state the last one left
    if skipped:
        yield from skip_first_batches(loader, skipped)
    while True:
        yield from loader
