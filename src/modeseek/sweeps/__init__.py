"""Run many cells on one or several machines: prompts x methods x seeds, and the cells of the paper's experiments."""

from modeseek.sweeps.cells import Cell as Cell
from modeseek.sweeps.cells import FolderCell as FolderCell
from modeseek.sweeps.cells import Result as Result
from modeseek.sweeps.runner import run_cells as run_cells
from modeseek.sweeps.runner import run_shard as run_shard
