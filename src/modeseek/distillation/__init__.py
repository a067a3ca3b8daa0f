"""The optimisation loop and the settings of each method."""
