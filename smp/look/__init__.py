"""Look at data, training, answers and masks: figures, HTML, and the snapshot file of a run's masks.
It may use smp.fast, smp.model, smp.data and the ground modules; the masks are passed as objects.
For others: Snapshots, run_snapshots, still, plot_masks, explore, and figures and passages.
"""
