"""The method: problems, engines, guidance, training and the timeline of a run. Imports no Prefect."""
