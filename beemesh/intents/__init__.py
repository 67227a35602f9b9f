"""What operators want: the signed map that every node keeps and merges."""
