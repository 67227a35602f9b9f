"""The house rules, as tests: what may import what, and what a tidy file looks like."""
