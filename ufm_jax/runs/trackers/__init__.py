"""Programs that draw curves of runs: what each takes of a round, in its own words."""
