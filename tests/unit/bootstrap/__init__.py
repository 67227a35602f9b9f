"""Bootstrap, without any host."""
