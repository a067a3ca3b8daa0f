"""Other programs' ways to call this package: one file a program, each importing it only when asked to."""
