"""Batches of windows of similar length, padded on the right, in an order that a seed fixes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute
import torch
from accelerate import skip_first_batches
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler


def make_loader(features: Dataset, tokenizer: Any, batch_size: int, shuffle: bool,
                seed: int = 0) -> DataLoader:
    """Return a loader of dicts of int64 tensors (B, longest window), and "row" (B,) in features.

    Shuffled: batches of windows of similar length, in another order at each iteration; `seed`
    fixes all orders, and their state is `loader.sampler.generator`. Not shuffled: longest first.
    Raises ValueError when there are no features.
    """
    if len(features) == 0:
        raise ValueError("no features to load batches from; give at least one question")
    columns = features.with_format("arrow")[:]
    lengths = pyarrow.compute.list_value_length(columns["input_ids"]).to_numpy()
    first = np.cumsum(lengths) - lengths  # (n,) start of each window in `tokens`
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
        # on the right for every tokenizer, so that token i has offset i
        place = np.arange(lengths[rows].max())
        inside = place < lengths[rows, None]  # (B, longest)
        where = np.where(inside, first[rows, None] + place, 0)
        batch = {"row": np.array(rows)} | {name: values[rows] for name, values in labels.items()}
        for name, values in tokens.items():
            batch[name] = np.where(inside, values[where], padding[name])
        return {name: torch.from_numpy(values.astype(np.int64)) for name, values in batch.items()}

    # a generator of its own, because the default draws from torch's global one in each epoch
    return DataLoader(range(len(features)), batch_size, sampler=sampler, collate_fn=collate,
                      generator=torch.Generator())


def endless_batches(loader: DataLoader, done: int) -> Iterator[dict]:
    """Yield the batches of epoch after epoch, each in a new order, without the first `done`."""
    epochs, skipped = divmod(done, len(loader))
    for _ in range(epochs):
        list(loader.sampler)  # advances the state from which the next order is drawn
    if skipped:
        yield from skip_first_batches(loader, skipped)
    while True:
        yield from loader
