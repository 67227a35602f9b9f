"""Templates and playbooks that bootstrap renders onto machines."""
