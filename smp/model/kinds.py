"""The kinds of question-answering heads, see smp/model/load.py."""

HEADS = ("auto", "label words", "embedding rows", "trained")
