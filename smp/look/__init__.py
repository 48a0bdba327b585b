"""Views of data, training, answers and masks, and the snapshot file of the masks of a run.
It may use smp.model, smp.data and the ground modules; the masks are passed as objects.
For others: Snapshots, run_snapshots, explore, compare_masks, and all show_... and plot_...
"""
