"""How the node that won runs it: reserve, deploy, watch, restart, stop, and obey."""
