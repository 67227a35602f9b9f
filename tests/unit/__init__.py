"""Fast tests of single parts, with the time handed in."""
