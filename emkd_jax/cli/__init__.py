"""The command line, and what all of the package prints in a terminal."""
