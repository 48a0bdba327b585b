"""The kinds of question-answering heads."""

HEADS = ("auto", "label words", "embedding rows", "trained", "teacher")  # see model/head.py
