"""The diffusion core: denoisers, guidance, noise schedules and samplers; errors and file handling."""
