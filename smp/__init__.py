"""Static Model Pruning of a BERT that answers questions: one idea a module."""
