"""Picture features from the Inception network of the original FID; needs torch-fidelity and its weights on disk."""

import functools
from importlib.metadata import version
from typing import Any

import numpy as np

from engine.measuring import clip
from engine.measuring.evidence import Pictures, Subject
from engine.measuring.learned import checkpoint, natural, need_packages

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"


def edition(subject: Subject) -> str:
    """Names network and weights.

    Raises:
        Unmeasurable: A package or the weights are missing, or the file of weights is a different one.
    """
    natural(subject)
    need_packages("Inception", "torch_fidelity", "torchvision")
    weights = checkpoint("Inception", WEIGHTS, URL)
    return f"inception-v3 {clip.digest(weights)}, torch-fidelity {version('torch-fidelity')}"


def vectors(subject: Subject, pictures: Pictures) -> np.ndarray:
    """Features (N, 2048) of pictures (N, H, W, 3), resized as in TensorFlow 1."""
    import torch

    network = _network()
    device = next(network.parameters()).device
    with torch.no_grad():
        (found,) = network(torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).to(device))
    return np.asarray(found.cpu())


@functools.cache
def _network() -> Any:
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = checkpoint("Inception", WEIGHTS, URL)
    network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    return network.to("cuda" if torch.cuda.is_available() else "cpu")
