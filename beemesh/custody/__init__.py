"""Who may read it: sealing, key shares, their custodians and their release."""
