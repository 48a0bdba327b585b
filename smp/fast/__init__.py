"""The fast path: training steps and masks on a CPU, sparse products, and removal of dead units.
It may use smp.model, smp.data and the ground modules, never smp.method: `Masks` are passed to it.
Names for others: speed_up, KeepTop, reuse_buffers, skip_zeros, accelerate, prune_dead_units.
"""
