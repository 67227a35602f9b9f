"""The agent: the edge of a node, where state machines meet sockets, disks, clocks and containers."""
