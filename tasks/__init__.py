"""One Prefect task a file: each runs a stage, or keeps a record, and publishes what came of it."""
