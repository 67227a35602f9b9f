"""How what runs becomes what is wanted: one steward per workload, and what operators order."""
