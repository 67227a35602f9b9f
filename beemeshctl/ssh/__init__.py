"""Running commands and putting files on machines: over SSH, or on this one."""
