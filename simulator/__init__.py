"""The same protocol objects as on a real node, in one process under a virtual clock, with faults from one seed."""
