"""Stock question-answering encoders: load, find the maskable matrices, predict, save, fingerprint.
It may use smp.data and the ground modules, not the method.
For others: everything except the helpers of archive.py, load.py and student.py.
"""
