"""What serves the programs at the root: settings, files, command lines. It knows no network."""
