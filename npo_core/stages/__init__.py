"""One process a stage: a specification (JSON) in, a result (JSON) out. `python -m npo_core.stages NAME SPEC.json`."""
