"""Reproduction of the paper: its tables and figures (`paper`), further studies (`studies`), training of the shipped networks (`training`).

The modules next to these three folders are shared by them: an experiment is a list of independent cells (`experiment`) on points of the
plane (`plane`, `estimator_cells`), on images (`image_cells`, `image_methods`, `image_scores`) or on objects (`object_cells`,
`compared_objects`). The library imports nothing from here.
"""

from modeseek.reproduction.experiment import Experiment as Experiment
from modeseek.reproduction.experiment import Settings as Settings
from modeseek.reproduction.paper import fig1, fig2, fig3, fig4, fig5, fig6, fig8, fig9, table1, table2, table3, table4
from modeseek.reproduction.studies import (
    calibration,
    compare3d,
    demo,
    drift,
    edit,
    frontier,
    lab,
    levy,
    oracle,
    prior,
    repair,
    samplers,
    search_images,
    search_points,
    table3d,
    zoo,
)

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        *(table1, table2, table3, table4),
        *(fig1, fig2, fig3, fig4, fig5, fig6, fig8, fig9),
        *(table3d, compare3d, oracle, calibration, samplers, levy, lab, repair, drift, frontier),
        *(search_points, search_images, prior, zoo, edit, demo),
    )
}
"""Name -> experiment; the command line offers these."""
