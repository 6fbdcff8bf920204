"""What gives evidence: runs, figures and pages behind docs/results.md, docs/results-published.md, docs/signal.md and docs/triggers.md."""
