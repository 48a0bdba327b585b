"""Stock question-answering encoders: load, find the maskable matrices, predict, save, fingerprint.
May use smp.data and the ground modules, not the method.
For others: everything except the helpers of archive.py, head.py and load.py.
"""
