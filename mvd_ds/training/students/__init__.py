"""Several students that are trained in the same processes, from the same clips and one pass of the teachers."""
