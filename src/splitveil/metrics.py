"""The distance of a reconstruction from its image: mean squared error, PSNR and SSIM.

Images are float tensors (B, C, H, W) in [0, 1]; every metric returns one number per image, (B,).
Values are checked (NaN, range) only where no gradient is asked for: a check in a training step would stall
the accelerator. Shapes and types are always checked.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .errors import UserError

WINDOW = 11  # pixels; Wang et al., "Image quality assessment", IEEE TIP 2004: Gaussian window, sigma 1.5
WINDOW_SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with the data range L = 1
RANGE_TOLERANCE = 1e-4  # rounding of half-precision arithmetic, not a clipped image
ELEMENTS_AT_ONCE = 2**22  # bounds the working memory of ssim and bootstrap_ci to some 200 MB


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error per image: mean over channels and pixels of (x − y)². Unit: squared pixel range.

    Args:
        x: images (B, C, H, W) in [0, 1].
        y: images (B, C, H, W) in [0, 1].

    Returns:
        (B,) in [0, 1].

    Raises:
        UserError: shapes or types do not fit, or values are NaN or outside [0, 1].

    >>> mse(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5))
    tensor([0.2500, 0.2500])
    """
    x, y = checked_pair(x, y)
    return (x - y).square().mean(dim=(1, 2, 3))


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio per image, in dB: −10 log10 MSE, as the peak is 1. Equal images give +inf.

    The mean of this over images is not the PSNR of the mean MSE: by Jensen it is larger or equal.

    Args:
        x: images (B, C, H, W) in [0, 1].
        y: images (B, C, H, W) in [0, 1].

    Returns:
        (B,) in decibels.

    Raises:
        UserError: as for :func:`mse`.

    >>> psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1))
    tensor([20.])
    """
    return -10 * mse(x, y).log10()


def ssim(x: Tensor, y: Tensor, padding: Literal["valid", "zero"] = "valid") -> Tensor:
    """Return the structural similarity per image (Wang et al., IEEE TIP 2004, eq. 13), mean over channels and pixels.

    SSIM = (2 μx μy + C1)(2 σxy + C2) / ((μx² + μy² + C1)(σx² + σy² + C2)), moments under an 11 × 11 Gaussian
    window with σ = 1.5, C1 = 0.01², C2 = 0.03². Differentiable, so that it also serves as a training loss.

    Args:
        x: images (B, C, H, W) in [0, 1].
        y: images (B, C, H, W) in [0, 1].
        padding: "valid" uses whole windows only (equals scikit-image's ``structural_similarity`` with
            ``gaussian_weights=True, use_sample_covariance=False``); "zero" surrounds the images with black,
            as the code published with the CEM paper does, for comparison with its numbers.

    Returns:
        (B,) in [−1, 1]; 1 for equal images.

    Raises:
        UserError: as for :func:`mse`; also for images below 11 pixels without padding.

    >>> x = torch.rand(2, 3, 32, 32)
    >>> ssim(x, x)
    tensor([1., 1.])
    """
    if padding not in ("valid", "zero"):
        raise UserError(f"SSIM got padding '{padding}'; expected 'valid' or 'zero'")
    x, y = checked_pair(x, y)
    height, width = x.shape[2:]
    if padding == "valid" and min(height, width) < WINDOW:
        raise UserError(
            f"SSIM got images of {height} × {width} pixels; its window needs at least {WINDOW} × {WINDOW}: "
            "enlarge the images, or use padding='zero'"
        )
    at_once = max(1, ELEMENTS_AT_ONCE // x[0].numel())
    with torch.autocast(x.device.type, enabled=False):  # variances are differences of near-equal numbers
        parts = [_ssim(a, b, padding) for a, b in zip(x.split(at_once), y.split(at_once), strict=True)]
    return torch.cat(parts)


def check_size(size: int) -> None:
    """Refuse images that `ssim` cannot score, before anything is trained or attacked.

    Args:
        size: pixels of the shorter side.

    Raises:
        UserError: they are smaller than its window.

    >>> check_size(11)
    """
    if size < WINDOW:
        raise UserError(
            f"images are {size} × {size} pixels, but the window of SSIM, which scores attacks, "
            f"needs {WINDOW} × {WINDOW}; enlarge them, e.g. --data folder:root=PATH,size=32 (at least {WINDOW})"
        )


def _ssim(x: Tensor, y: Tensor, padding: str) -> Tensor:
    images, channels = x.shape[:2]
    moments = torch.cat((x, y, x * x, y * y, x * y)).flatten(0, 1)
    moments = _blur(moments, padding).view(5, images, channels, -1)
    mean_x, mean_y, xx, yy, xy = moments.unbind()
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    luminance = (2 * product + C1) / (squares + C1)
    structure = (2 * (xy - product) + C2) / (xx + yy - squares + C2)
    return (luminance * structure).mean(dim=(1, 2))


def _blur(planes: Tensor, padding: str) -> Tensor:
    """Apply the Gaussian window to (N, H, W), one axis after the other.

    Banded matrix products are 3 to 10 times faster here than an 11-tap convolution.
    """
    rows = _window_matrix(planes.shape[1], padding).to(planes)
    columns = _window_matrix(planes.shape[2], padding).to(planes)
    return rows @ planes @ columns.T


def _window_matrix(size: int, padding: str) -> Tensor:
    """Return (windows, size): row i holds the window centered on pixel i; "valid" keeps the rows that fit whole."""
    pixel = torch.arange(size, dtype=torch.float64)
    reach = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    total = torch.exp(-0.5 * (reach / WINDOW_SIGMA).square()).sum()
    distance = pixel[None] - pixel[:, None]
    window = torch.exp(-0.5 * (distance / WINDOW_SIGMA).square()) / total
    window = window * (distance.abs() <= WINDOW // 2)
    return window[WINDOW // 2 : size - WINDOW // 2] if padding == "valid" else window


def checked_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images of a metric in single precision or better; raise UserError as :func:`mse` does."""
    if x.shape != y.shape or x.dim() != 4 or x.numel() == 0:
        raise UserError(
            f"a metric got images of shapes {tuple(x.shape)} and {tuple(y.shape)}; "
            "expected two equal, non-empty shapes (B, C, H, W)"
        )
    in_a_step = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    for images in (x, y):
        if not images.is_floating_point():
            raise UserError(
                f"a metric got {images.dtype} images; expected floats in [0, 1]: "
                "use splitveil.data.to_float for uint8 images"
            )
        if not in_a_step:
            _check_range(images)
    if x.device != y.device:
        raise UserError(f"a metric got images on {x.device} and on {y.device}; move both to one device")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def _check_range(images: Tensor) -> None:
    low, high = (float(value) for value in images.detach().aminmax())
    if math.isnan(low) or math.isnan(high):
        raise UserError("a metric got images with NaN; look for a diverged training or attack")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise UserError(f"a metric got images with values from {low:.4g} to {high:.4g}; expected [0, 1]: clamp them")
