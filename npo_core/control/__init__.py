"""AutoNPO's eyes and judgement: signals, mistake pool, probe, the choice of Delta, and decisions as records."""
