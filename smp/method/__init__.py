"""The pruning methods: masks, schedule, losses, baselines and the training loop.
It uses torch, numpy and the standard library; objects of the other rooms are passed to it.
For others: Masks, keep_top, same_share, competing_share, Pruning, distilled_loss, fit, span_loss.
"""
