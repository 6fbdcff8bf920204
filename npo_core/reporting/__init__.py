"""What a run did, for people: figures read from its workspace, comparisons, tables, plots and the report.

Reads records and metrics only, never weights, so nothing here imports torch.
"""
