"""The method: problems, engines, guidance, training and the timeline of a run. Imports no Prefect."""

__version__ = "0.3.0"
