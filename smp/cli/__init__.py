"""The command line: one parser, one module a verb, and a run put together from the other rooms.
It may use every room, and it is the only room that imports smp.method.
Names for others: main.main, train (train, attach_pruning, teacher_loss, Parts), grid.Grid."""
