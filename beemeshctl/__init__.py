"""The command line: one file per command, inventory, SSH, bootstrap, and rendering in one place."""
