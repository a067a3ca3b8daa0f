"""Numbers from samples; every function takes tensors, none a file or a model."""

from modeseek.metrics.calibration import classifier_test as classifier_test
from modeseek.metrics.calibration import rank_test as rank_test
from modeseek.metrics.efficiency import against_oracle as against_oracle
from modeseek.metrics.efficiency import log_efficiency as log_efficiency
from modeseek.metrics.frechet import frechet_distance as frechet_distance
from modeseek.metrics.frechet import frechet_of_gaussians as frechet_of_gaussians
from modeseek.metrics.likelihood import modes_reached as modes_reached
from modeseek.metrics.likelihood import negative_log_likelihood as negative_log_likelihood
from modeseek.metrics.likelihood import outlier_rate as outlier_rate
from modeseek.metrics.mmd import mmd as mmd
from modeseek.metrics.neighbours import precision_recall as precision_recall
from modeseek.metrics.shapes import chamfer_and_f as chamfer_and_f
from modeseek.metrics.shapes import psnr as psnr
from modeseek.metrics.shapes import silhouette_iou as silhouette_iou
from modeseek.metrics.shapes import ssim as ssim
