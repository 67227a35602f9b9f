"""The molecule scenario: real Ansible around `beemeshctl bootstrap`."""
