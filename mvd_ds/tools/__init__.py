"""The tools beside training: they plan, examine machines, read finished runs and convert weights."""
