"""The registry of metrics of pictures, step frames and whole lanes. Imports no torch.

To add a metric, write a function and register it, for example in a plug-in that a study names:

    from engine.measuring.metrics import METRICS, Metric
    def brightness(evidence): return float(evidence.pictures.mean() / 255)
    METRICS.register(Metric("brightness", "Brightness", "", "neither", "1", brightness, "mean of all values, 0..1"))

With `scope="frame"` it measures x0 frames, with the final picture in `evidence.final_pictures`; with `scope="lane"` it
is a function of two sets of vectors (`Sets`):

    def shift(sets): return float(((sets.lane - sets.against).mean(axis=0) ** 2).sum() ** 0.5)
    METRICS.register(Metric("shift", "Shift", "", "lower", "1", shift, "distance of the means", scope="lane"))
"""

from typing import Any

from engine.measuring import clips, formulas, set_formulas
from engine.measuring.metric import CLIP, INCEPTION, Metric
from engine.study.registry import Registry

_CLIP = "engine.measuring.clip"
_ATTRIBUTES = "engine.measuring.attributes"
_LEARNED = "engine.measuring.learned"

_OF_PICTURES = (
    Metric(
        "latent_error",
        "Latent error",
        "relative L2",
        "lower",
        "1",
        formulas.latent_error,
        "distance of the final latents to the converged solution's, over their norm",
        has_true_zero=True,
        margin=0.05,
        needs_reference=True,
    ),
    Metric(
        "psnr",
        "PSNR to reference",
        "dB",
        "higher",
        "1",
        formulas.psnr,
        f"peak signal-to-noise ratio to the converged picture; equal pictures get {formulas.PSNR_CAP:g}",
        needs_reference=True,
    ),
    Metric(
        "ssim",
        "SSIM to reference",
        "",
        "higher",
        "1",
        formulas.ssim,
        "structural similarity to the converged picture, 1 if equal",
        margin=0.02,
        needs_reference=True,
    ),
    Metric(
        "sharpness",
        "Sharpness",
        "",
        "neither",
        "1",
        formulas.sharpness,
        "variance of the Laplacian of the luminance (0..1); more is not better, noise is sharp too",
    ),
    Metric(
        "spectral_slope",
        "Spectral slope",
        "",
        "neither",
        "1",
        formulas.spectral_slope,
        "slope of log power over log spatial frequency; nearer to 0 is more detail or noise",
    ),
    Metric(
        "clip_score",
        "CLIP score",
        "100 cos",
        "higher",
        "1",
        f"{_CLIP}:clip_score",
        "100 times the cosine of picture and prompt in CLIP space, at least 0",
        smallest_n=30,
        may_guard=True,
        edition=f"{_CLIP}:edition",
    ),
    Metric(
        "recognised",
        "Recognised",
        "share",
        "higher",
        "1",
        f"{_CLIP}:recognised",
        "1 if CLIP ranks the prompt's concept first among all labels of the vocabulary, else 0",
        smallest_n=30,
        has_true_zero=True,
        span=1.0,
        margin=0.05,
        may_guard=True,
        edition=f"{_CLIP}:vocabulary_edition",
        check_prompt=f"{_CLIP}:check_prompt",
        on_frames=True,
    ),
    Metric(
        "attributes",
        "Attributes found",
        "share",
        "higher",
        "1",
        f"{_ATTRIBUTES}:attributes",
        "share of what the prompt names (things, places, colours, ...) that CLIP ranks first among all of its kind",
        smallest_n=30,
        has_true_zero=True,
        span=1.0,
        margin=0.05,
        may_guard=True,
        edition=f"{_ATTRIBUTES}:edition",
        check_prompt=f"{_ATTRIBUTES}:check_prompt",
        on_frames=True,
    ),
    Metric(
        "lpips",
        "LPIPS to reference",
        "",
        "lower",
        "1",
        f"{_LEARNED}:lpips",
        "perceptual distance to the converged picture in the layers of AlexNet; 0 if equal",
        has_true_zero=True,
        margin=0.05,
        needs_reference=True,
        edition=f"{_LEARNED}:lpips_edition",
    ),
    Metric(
        "pick_score",
        "PickScore",
        "",
        "higher",
        "1",
        f"{_LEARNED}:pick_score",
        "scaled cosine of picture and prompt in a CLIP model trained on human preferences",
        smallest_n=30,
        may_guard=True,
        edition=f"{_LEARNED}:pick_score_edition",
    ),
    Metric(
        "aesthetic",
        "Aesthetic score",
        "1 to 10",
        "higher",
        "1",
        f"{_LEARNED}:aesthetic",
        "predicted human rating of the picture from its CLIP vector (LAION predictor V2)",
        smallest_n=30,
        edition=f"{_LEARNED}:aesthetic_edition",
    ),
)

# "neither": a lane with less motion is steadier but not better, and noise has the most motion of all.
_OF_CLIPS = (
    Metric(
        "temporal_consistency",
        "Temporal consistency",
        "cosine",
        "neither",
        "1",
        f"{_CLIP}:temporal_consistency",
        "mean cosine of consecutive frames in CLIP space; 1 for a still clip",
        edition=f"{_CLIP}:edition",
        on_frames=True,
        of_clips=True,
    ),
    Metric(
        "flicker",
        "Flicker",
        "of 255",
        "neither",
        "1",
        clips.flicker,
        "mean absolute difference of consecutive frames, motion included; 0 for a still clip",
        has_true_zero=True,
        on_frames=True,
        of_clips=True,
    ),
    Metric(
        "motion_energy",
        "Motion energy",
        "latents squared",
        "neither",
        "1",
        clips.motion_energy,
        "mean squared difference of consecutive frames of the final latents; of each step's x0 in the table steps",
        has_true_zero=True,
        of_clips=True,
    ),
    Metric(
        "middle_clip_score",
        "CLIP score of the middle frame",
        "100 cos",
        "higher",
        "1",
        f"{_CLIP}:middle_clip_score",
        "100 times the cosine of the middle frame and the prompt in CLIP space, at least 0",
        smallest_n=30,
        edition=f"{_CLIP}:edition",
        on_frames=True,
        of_clips=True,
    ),
    Metric(
        "step_clip_score",
        "CLIP score of the frames of a step",
        "100 cos",
        "higher",
        "1",
        f"{_CLIP}:clip_score",
        "100 times the cosine of each frame of x0 and the prompt in CLIP space, at least 0; mean over frames",
        scope="frame",
        edition=f"{_CLIP}:edition",
        of_clips=True,
    ),
    Metric(
        "step_sharpness",
        "Sharpness of the frames of a step",
        "",
        "neither",
        "1",
        formulas.sharpness,
        "variance of the Laplacian of the luminance (0..1) of each frame of x0, without warping; mean over frames",
        scope="frame",
        of_clips=True,
    ),
)

# Step frames are stored as lossy WebP (quality 90), final pictures losslessly, so even the last frame gets less than 1.
_OF_FRAMES = (
    Metric(
        "similarity_to_final",
        "CLIP similarity to the final picture",
        "cosine",
        "neither",
        "1",
        f"{_CLIP}:similarity_to_final",
        "cosine of x0 and the final picture in CLIP space",
        scope="frame",
        edition=f"{_CLIP}:edition",
    ),
    Metric(
        "ssim_to_final",
        "SSIM to the final picture",
        "",
        "neither",
        "1",
        formulas.ssim_to_final,
        "structural similarity of x0 to the final picture",
        scope="frame",
    ),
    Metric(
        "sharpness_of_final",
        "Sharpness over the final picture's",
        "",
        "neither",
        "1",
        formulas.sharpness_of_final,
        "variance of the Laplacian of x0's luminance over that of the final picture",
        scope="frame",
    ),
)

_FID: dict[str, Any] = {
    "smallest_n": 200,
    "trusted_n": 1000,
    "caution": "biased upwards, by more for some lanes than others",
    "warn": set_formulas.rank_warning,
    "lowest": 0.0,
}
_FREE = "pairs of the same prompt left out"

_OF_LANES = (
    Metric(
        "kid",
        "KID (CLIP)",
        "",
        "lower",
        "2",
        set_formulas.kid_of_directions,
        f"kernel distance, (x.y + 1)^3, of CLIP directions, unbiased ({_FREE}); 0 if the sets are alike",
        scope="lane",
        features=CLIP,
    ),
    Metric(
        "cmmd",
        "CMMD",
        "x 1000",
        "lower",
        "1",
        set_formulas.cmmd,
        f"kernel distance, Gaussian kernel, of CLIP vectors, unbiased ({_FREE}); 0 if the sets are alike",
        scope="lane",
        features=CLIP,
    ),
    Metric(
        "fid",
        "FID (CLIP)",
        "",
        "lower",
        "1",
        set_formulas.fid,
        "Fréchet distance of normal distributions fitted to CLIP vectors; biased at every n",
        scope="lane",
        features=CLIP,
        **_FID,
    ),
    Metric(
        "diversity",
        "Diversity gain",
        "cosine distance",
        "neither",
        "1",
        set_formulas.diversity,
        "mean distance between two seeds of a prompt, minus that of the other side; noise also counts as diversity",
        scope="lane",
        features=CLIP,
    ),
    Metric(
        "precision",
        "Precision",
        "share",
        "higher",
        "1",
        set_formulas.precision,
        "share of pictures within the distance of the other side's pictures to their third neighbours",
        scope="lane",
        features=CLIP,
        smallest_n=200,
        trusted_n=1000,
        lowest=0.0,
        highest=1.0,
    ),
    Metric(
        "recall",
        "Recall",
        "share",
        "higher",
        "1",
        set_formulas.recall,
        "share of the other side's pictures within the distance of the lane's pictures to their third neighbours",
        scope="lane",
        features=CLIP,
        smallest_n=200,
        trusted_n=1000,
        lowest=0.0,
        highest=1.0,
    ),
    Metric(
        "kid_inception",
        "KID (Inception)",
        "",
        "lower",
        "1",
        set_formulas.kid,
        f"kernel distance, cubic kernel, of Inception vectors, unbiased ({_FREE})",
        scope="lane",
        features=INCEPTION,
    ),
    Metric(
        "fid_inception",
        "FID (Inception)",
        "",
        "lower",
        "1",
        set_formulas.fid,
        "Fréchet distance of normal distributions fitted to Inception vectors; biased at every n",
        scope="lane",
        features=INCEPTION,
        **_FID,
    ),
)

METRICS: Registry[Metric] = Registry("metric", (*_OF_PICTURES, *_OF_CLIPS, *_OF_FRAMES, *_OF_LANES))


def of_scope(scope: str) -> dict[str, Metric]:
    """The metrics of a scope ("picture", "frame" or "lane"), by key."""
    return {key: metric for key, metric in METRICS.items() if metric.scope == scope}
