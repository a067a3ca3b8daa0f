"""Figures and images as files."""

from modeseek.plots.panels import Curve as Curve
from modeseek.plots.panels import Panel as Panel
from modeseek.plots.panels import PointsPanel as PointsPanel
from modeseek.plots.panels import PotentialPanel as PotentialPanel
from modeseek.plots.panels import save_curves as save_curves
from modeseek.plots.panels import save_grid as save_grid
