"""Inventories: Ansible's YAML format, checked, with every host's variables worked out."""
