"""A neural radiance field: hash grid, heads, cameras, volume rendering, regularisers and meshes, one file each."""

from modeseek.representations.nerf.cameras import Cameras as Cameras
from modeseek.representations.nerf.cameras import Ranges as Ranges
from modeseek.representations.nerf.field import Field as Field
from modeseek.representations.nerf.field import FieldSettings as FieldSettings
from modeseek.representations.nerf.field import Volume as Volume
from modeseek.representations.nerf.hashgrid import HashGrid as HashGrid
from modeseek.representations.nerf.hashgrid import HashGridSettings as HashGridSettings
from modeseek.representations.nerf.mesh import Mesh as Mesh
from modeseek.representations.nerf.mesh import baked as baked
from modeseek.representations.nerf.mesh import degenerate as degenerate
from modeseek.representations.nerf.mesh import extract_mesh as extract_mesh
from modeseek.representations.nerf.nerf import NeRF as NeRF
from modeseek.representations.nerf.regularisers import Regularisers as Regularisers
from modeseek.representations.nerf.rendering import March as March
from modeseek.representations.nerf.rendering import Rendering as Rendering
from modeseek.representations.nerf.rendering import render as render
from modeseek.representations.nerf.settings import NeRFSettings as NeRFSettings
from modeseek.representations.nerf.settings import Shading as Shading
from modeseek.representations.nerf.settings import Views as Views
