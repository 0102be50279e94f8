"""Formulas of metrics that need no weights, in float64. Pictures are (height, width, 3) bytes."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from engine.measuring.evidence import Evidence, Pictures, Unmeasurable

Floats = npt.NDArray[np.float64]

# PSNR of equal pictures instead of infinity; a difference of 1 in one value of a 128 x 128 picture gives 95 dB.
PSNR_CAP = 100.0
SSIM_SIGMA = 1.5
# Truncates scipy's Gaussian to 11 x 11 values, as in the paper.
SSIM_TRUNCATE = 3.5
SSIM_BORDER = 5
# Rec. 709, as scikit-image's rgb2gray.
LUMINANCE = np.array([0.2125, 0.7154, 0.0721])


def latent_error(evidence: Evidence) -> float:
    """||x - x*|| / ||x*|| of the final latents."""
    if evidence.reference_latents is None:
        raise Unmeasurable("there is no reference")
    return relative_distance(evidence.latents, evidence.reference_latents)


def psnr(evidence: Evidence) -> float:
    """Mean over frames of the peak signal-to-noise ratio to the reference, in dB."""
    return float(np.mean([peak_signal_to_noise(*pair) for pair in evidence.both_pictures()]))


def ssim(evidence: Evidence) -> float:
    """Mean over frames of the structural similarity to the reference."""
    return float(np.mean([structural_similarity(*pair) for pair in evidence.both_pictures()]))


def sharpness(evidence: Evidence) -> float:
    """Mean over frames of the variance of the Laplacian."""
    return float(np.mean([laplacian_variance(picture) for picture in evidence.pictures]))


def ssim_to_final(evidence: Evidence) -> float:
    """Mean over frames of the structural similarity of a step's x0 and the final picture."""
    pairs = zip(evidence.pictures, evidence.final(), strict=True)
    return float(np.mean([structural_similarity(*pair) for pair in pairs]))


def sharpness_of_final(evidence: Evidence) -> float:
    """Variance of the Laplacian of a step's x0 over that of the final picture.

    Raises:
        Unmeasurable: The final picture is constant.
    """
    final = np.mean([laplacian_variance(picture) for picture in evidence.final()])
    if not final > 0:
        raise Unmeasurable("the final picture is constant")
    return float(np.mean([laplacian_variance(picture) for picture in evidence.pictures]) / final)


def relative_distance(found: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """||found - reference|| / ||reference||.

    Raises:
        Unmeasurable: The shapes differ, or the reference is zero.
    """
    x, y = np.asarray(found, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if x.shape != y.shape:
        raise Unmeasurable(f"latents are {x.shape}, the reference's {y.shape}")
    norm = float(np.linalg.norm(y))
    if norm == 0:
        raise Unmeasurable("the reference is zero everywhere")
    return float(np.linalg.norm(x - y)) / norm


def peak_signal_to_noise(picture: Pictures, reference: Pictures) -> float:
    """10 log10(255^2 / mean squared error), at most `PSNR_CAP`."""
    error = float(np.mean((picture.astype(np.float64) - reference) ** 2))
    return PSNR_CAP if error == 0 else min(PSNR_CAP, 10 * float(np.log10(255**2 / error)))


def structural_similarity(picture: Pictures, reference: Pictures) -> float:
    """SSIM of Wang et al. 2004, doi:10.1109/TIP.2003.819861: Gaussian window of sigma 1.5, mean over channels.

    Raises:
        Unmeasurable: The pictures are smaller than the window.
    """
    if min(picture.shape[:2]) < 2 * SSIM_BORDER + 1:
        raise Unmeasurable(f"SSIM needs pictures of at least {2 * SSIM_BORDER + 1} pixels")
    x, y = picture.astype(np.float64), reference.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _smooth(x), _smooth(y)
    variance_x = _smooth(x * x) - mean_x**2
    variance_y = _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    inner = slice(SSIM_BORDER, -SSIM_BORDER)
    return float(similarity[inner, inner].mean())


def laplacian_variance(picture: Pictures) -> float:
    """Variance of the Laplacian (4-neighbour, borders mirrored) of the luminance in 0..1; 0 for a constant picture."""
    luminance = picture.astype(np.float64) @ LUMINANCE / 255
    return float(ndimage.laplace(luminance, mode="reflect").var())


def spectral_slope(evidence: Evidence) -> float:
    """Mean over frames of the slope of log power over log spatial frequency of the luminance.

    Power is averaged over rings one cycle per picture wide, from 1 to half the shorter side; natural pictures have a
    slope of about -2, noise has 0.

    Raises:
        Unmeasurable: A ring has no power (a constant picture).
    """
    return float(np.mean([_slope(picture) for picture in evidence.pictures]))


def _slope(picture: Pictures) -> float:
    luminance = picture.astype(np.float64) @ LUMINANCE / 255
    height, width = luminance.shape
    # Without a Hann window, the jump between opposite borders would count as detail.
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.fft2((luminance - luminance.mean()) * window)) ** 2
    side = min(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) * side
    rings = np.rint(radius).astype(int).ravel()
    inside = (rings >= 1) & (rings <= side // 2)
    count = np.bincount(rings[inside], minlength=side // 2 + 1)[1:]
    mean = np.bincount(rings[inside], weights=power.ravel()[inside], minlength=side // 2 + 1)[1:] / count
    if not (mean > 1e-20).all():
        raise Unmeasurable("the picture has no detail at some spatial frequency")
    return float(np.polyfit(np.log(np.arange(1, side // 2 + 1)), np.log(mean), 1)[0])


def _smooth(values: Floats) -> Floats:
    smoothed: Floats = ndimage.gaussian_filter(values, SSIM_SIGMA, truncate=SSIM_TRUNCATE, axes=(0, 1))
    return smoothed
