"""The embedded prior's world: captions, the exact solids behind them, images, and the training of a text-to-image prior on them."""

from modeseek.solids.captions import Scene as Scene
from modeseek.solids.captions import parse as parse
from modeseek.solids.rendering import Cameras as Cameras
from modeseek.solids.rendering import render as render
from modeseek.solids.rendering import view_cameras as view_cameras
from modeseek.solids.shapes import Solid as Solid
from modeseek.solids.shapes import solid as solid
