"""What is optimised: modules whose forward gives a batch of images, latents or points. They do not depend on the diffusion model."""

from modeseek.representations.coordinates import CoordinateMLP as CoordinateMLP
from modeseek.representations.nerf import NeRF as NeRF
from modeseek.representations.pixels import Latents as Latents
from modeseek.representations.pixels import Pixels as Pixels
from modeseek.representations.points import Points as Points
from modeseek.representations.replacement import replace_parameter as replace_parameter
