"""The paper's tables and figures, and ours; each a list of cells that run on their own."""

from modeseek.experiments import (
    demo,
    fig1,
    fig2,
    fig3,
    fig4,
    fig5,
    fig6,
    fig8,
    fig9,
    frontier,
    oracle,
    search,
    search4,
    solids,
    table1,
    table2,
    table3,
    table3d,
    table4,
)
from modeseek.experiments.base import Experiment as Experiment
from modeseek.experiments.base import Settings as Settings

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        *(table1, table2, table3, table4, table3d),
        *(fig1, fig2, fig3, fig4, fig5, fig6, fig8, fig9),
        *(oracle, frontier, search, search4, solids, demo),
    )
}
"""Name -> experiment; the command line offers these."""
