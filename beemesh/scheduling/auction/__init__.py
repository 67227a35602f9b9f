"""How one replica finds its node: who is asked, who bids, who leads."""
