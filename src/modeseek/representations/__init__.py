"""What is optimised: modules whose forward gives the batch that a prior sees. They know nothing of diffusion."""

from modeseek.representations.points import Points as Points
