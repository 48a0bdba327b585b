"""experiments/switching.py with a tiny encoder."""

from transformers import BertConfig

from experiments.switching import HEADS, measure


def test_sizes_and_switches_of_three_tasks_are_measured():
    tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                      intermediate_size=64)
    sizes, times = measure(tiny, 4)
    assert len(sizes) == len(HEADS) and len(times) == 4 and min(times) > 0
    assert sizes[1] > sizes[0] + 4 * 32 * 32  # the pooler of sequence classification
