"""Transient facts with a place: signed records on the nodes nearest to their key, and compare-and-swap over them."""
