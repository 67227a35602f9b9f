"""Manifests as data, and the reconciler."""
