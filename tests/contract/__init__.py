"""The suites that every implementation of a seam passes."""
