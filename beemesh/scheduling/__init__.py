"""Who runs it: tasks, bids, leases by compare-and-swap, and the explanation of each decision."""
