"""The command line: one parser, one module for each verb, and the assembly of a run.
It may use every room, and it is the only room that imports smp.method.
Names for others: main.main, train (train, attach_pruning, teacher_loss, Parts), grid.Grid."""
