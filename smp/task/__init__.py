"""A task as masks on a pretrained model: its files, switching between tasks, and export of a run.
It may use every other room except cli and method.
For others: load_answerer, PrunedModel, SMPTrainer, save_masks, load_authors_student, export_run.
"""
