"""Pages: one self-contained HTML file for a run, for a reproduced table or figure, and for a comparison of runs."""

from modeseek.pages.comparison import write_comparison as write_comparison
from modeseek.pages.experiment_page import write_experiment_page as write_experiment_page
from modeseek.pages.reading import Run as Run
from modeseek.pages.run_page import write_run_page as write_run_page
