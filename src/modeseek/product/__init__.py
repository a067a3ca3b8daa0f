"""The product density q(y|x) of a prior and a Gaussian kernel: its denoisers, and the samplers that draw from it."""
