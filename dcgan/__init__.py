"""Everything that serves the programs at the root; nothing here imports a file of the root."""
