"""Settings of a run, its curves and checkpoints, its record, and tables of many records.
It uses smp/data, smp/model and the ground modules; masks and losses are passed to it.
For others: choose_settings, METHODS, prepare_training, Checkpoints, begin_record, read_records."""
