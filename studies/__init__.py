"""What gives evidence: runs, figures and pages behind docs/results.md, docs/signal.md and docs/triggers.md."""
