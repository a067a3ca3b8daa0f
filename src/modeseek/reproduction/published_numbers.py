"""The paper's published numbers (Thamizharasan et al. 2025, arXiv 2502.15989, Tables 1-4), as printed.

Columns of Table 1: ideal denoiser; learned; learned with CFG; learned with autoguidance. Cells that no text version of the paper shows are
absent, and so is their comparison. Its NLL of DDIM with the ideal denoiser (-1.85) is below the fractal's entropy (-1.36), which no
faithful sampler reaches, so its density must differ from `fractal("A")` in scale, or its points in kind.
"""

from __future__ import annotations

Column = tuple[str, str, str]  # density, denoiser, guidance

FRACTAL: list[Column] = [
    ("fractal", "ideal", "none"),
    ("fractal", "learned", "none"),
    ("fractal", "learned", "cfg"),
    ("fractal", "learned", "autoguidance"),
]
SPIRAL: list[Column] = [("spiral", "ideal", "none"), ("spiral", "learned", "none")]
PINWHEEL: list[Column] = [("pinwheel", "ideal", "none"), ("pinwheel", "learned", "none")]

# metric -> columns -> method -> values in the columns' order (None: not legible)
_VALUES: list[tuple[str, list[Column], dict[str, list[float | None]]]] = [
    (
        "nll",
        FRACTAL,
        {
            "DDIM": [-1.85, -1.51, -1.59, -1.67],
            "SDS": [36.15, 9.12, 15.96, 11.33],
            "VSD": [9.97, 9.88, 18.97, 11.52],
            "SDI": [24.28, -2.87, 27.37, 0.65],
            "MSD": [-1.32, -2.02, -1.15, -1.99],
        },
    ),
    (
        "precision",
        FRACTAL,
        {
            "DDIM": [0.97, 0.95, 0.97, 0.96],
            "SDS": [0.08, 0.01, 0.17, 0.04],
            "VSD": [0.05, 0.10, 0.21, 0.03],
            "SDI": [0.27, 0.97, 0.30, 0.51],
            "MSD": [0.92, 0.97, 0.94, 0.97],
        },
    ),
    (
        "recall",
        FRACTAL,
        {"DDIM": [0.93, 0.96, 0.44, 0.79], "SDS": [0.03, 0.00, 0.03, 0.03], "MSD": [0.33, 0.42, None, None]},
    ),
    (
        "mmd_1e4",
        FRACTAL,
        {
            "DDIM": [0.860, 0.007, 257.43, 0.25],
            "SDS": [328.0, 87.04, 3875.11, 71.05],
            "VSD": [230.9, 94.68, 3845.41, 70.25],
            "SDI": [29.93, 459.9, 69.23, 15089.0],
            "MSD": [30.46, 12.79, 133.41, 122.94],
        },
    ),
    (
        "nll",
        SPIRAL,
        {"DDIM": [-1.39, -1.32], "SDS": [30.37, 8.13], "VSD": [10.15, 8.90], "SDI": [35.64, 19.16], "MSD": [-1.28, -1.51]},
    ),
    (
        "precision",
        SPIRAL,
        {"DDIM": [0.97, 0.96], "SDS": [0.02, 0.04], "VSD": [0.04, 0.07], "SDI": [0.10, 0.12], "MSD": [0.99, 0.98]},
    ),
    (
        "recall",
        SPIRAL,
        {"DDIM": [0.93, 0.96], "SDS": [0.03, 0.11], "VSD": [0.09, 0.14], "SDI": [0.90, 0.42], "MSD": [0.18, 0.18]},
    ),
    (
        "mmd_1e4",
        SPIRAL,
        {"DDIM": [0.410, 1.160], "SDS": [13.85, 274.3], "VSD": [23.46, 271.8], "SDI": [39.51, 2008.0], "MSD": [4.490, 18.41]},
    ),
    (
        "nll",
        PINWHEEL,
        {"DDIM": [-1.19, -1.1], "SDS": [2.29, 2.00], "VSD": [3.34, 2.28], "SDI": [28.31, 17.33], "MSD": [-1.94, -2.19]},
    ),
    (
        "precision",
        PINWHEEL,
        {"DDIM": [0.97, 0.97], "SDS": [0.85, 0.90], "VSD": [0.65, 0.97], "SDI": [0.17, 0.51], "MSD": [0.99, 0.99]},
    ),
    (
        "recall",
        PINWHEEL,
        {"DDIM": [0.94, 0.97], "SDS": [0.03, 0.01], "VSD": [0.04, 0.02], "SDI": [0.001, 0.15], "MSD": [0.01, 0.13]},
    ),
    (
        "mmd_1e4",
        PINWHEEL,
        {"DDIM": [1.05, 0.270], "SDS": [5.18, 36.37], "VSD": [6.78, 33.36], "SDI": [6.13, 98.09], "MSD": [5.83, 7.250]},
    ),
    (
        "log_efficiency",
        FRACTAL[:2],
        {"SDS": [-7.37, -6.89], "VSD": [-5.92, -3.83], "SDI": [14.18, 14.21], "MSD": [13.44, 7.65]},
    ),
    (
        "log_efficiency",
        SPIRAL,
        {"SDS": [-8.48, -7.57], "VSD": [-6.85, -4.45], "SDI": [13.94, 14.17], "MSD": [13.38, 6.32]},
    ),
    (
        "log_efficiency",
        PINWHEEL,
        {"SDS": [-7.82, -6.99], "VSD": [-6.36, -3.93], "SDI": [14.19, 14.18], "MSD": [13.76, 7.08]},
    ),
]


def published(density: str, denoiser: str, guidance: str, method: str) -> dict[str, float] | None:
    """The paper's metrics of a cell, those it prints; None where it prints none.

    Example:
        >>> published("fractal", "learned", "none", "MSD")
        {'nll': -2.02, 'precision': 0.97, 'recall': 0.42, 'mmd_1e4': 12.79, 'log_efficiency': 7.65}
    """
    found: dict[str, float] = {}
    for metric, columns, methods in _VALUES:
        for column, value in zip(columns, methods.get(method, []), strict=False):
            if column == (density, denoiser, guidance) and value is not None:
                found[metric] = value
    return found or None


TEXT_TO_IMAGE = {
    "DDIM": {"CLIP-SIM": 44.1},
    "SDS": {"FID": 198.90, "CLIP-SIM": 27.7},
    "VSD": {"FID": 130.22, "CLIP-SIM": 30.8},
    "SDI": {"FID": 166.16, "CLIP-SIM": 31.0},
    "MSD": {"FID": 114.12, "CLIP-SIM": 32.6},
}
"""Table 4: Stable Diffusion, ten prompts; FID against DDIM images, CLIP-SIM with ViT-L/14."""
