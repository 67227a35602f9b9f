"""Messages to everybody: publish and subscribe over gossip, at most one delivery each."""
