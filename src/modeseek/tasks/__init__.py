"""Text to image and text to 3-D: a prompt in, a folder of results out."""
