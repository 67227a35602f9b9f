"""From an inventory to a mesh: facts are parsed, plans are data, connections carry them out."""
