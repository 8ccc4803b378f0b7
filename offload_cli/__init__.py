"""The command `offload`."""
