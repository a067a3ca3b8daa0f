"""The solids of the embedded prior: captions, exact geometry, rendering, and scores against the truth."""

from modeseek.solids.captions import Scene as Scene
from modeseek.solids.captions import parse as parse
from modeseek.solids.rendering import Cameras as Cameras
from modeseek.solids.rendering import render as render
from modeseek.solids.rendering import view_cameras as view_cameras
from modeseek.solids.shapes import Solid as Solid
from modeseek.solids.shapes import solid as solid
