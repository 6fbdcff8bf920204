"""What gives evidence: runs, figures and pages behind docs/results.md, results-published.md, signal.md, triggers.md."""
