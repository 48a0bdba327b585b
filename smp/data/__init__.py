"""Questions as data: load SQuAD v1.1 or synthetic QA data, make windows, score answers.
It may use the ground modules only.
For others: load_squad, data_fingerprint, featurise, make_loader, decode_answers, SquadMetric."""
