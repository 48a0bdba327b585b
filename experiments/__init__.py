"""What was tried and is no setting: variants of a run, soups of models, and README.md, the log."""
