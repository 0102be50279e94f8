"""What the well-known models take on paper, as plain numbers: counting them again takes seconds. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What one forward takes.

    Attributes:
        flops: Floating-point operations; a multiplication with an addition counts as two.
        peak_bytes: Activations alive at once, inputs and answer among them: a lower bound, as libraries add workspaces.
    """

    flops: float
    peak_bytes: int


@dataclass(frozen=True)
class OnPaper:
    """A model by calculation.

    Attributes:
        denoiser_parameters: And likewise of the autoencoder and of all text encoders.
        call: One denoiser call for one picture, with all its rows.
        decode: Decoding one picture or clip.
    """

    denoiser_parameters: int
    autoencoder_parameters: int
    encoder_parameters: int
    call: Work
    decode: Work

    @property
    def parameters(self) -> int:
        """Of all parts."""
        return self.denoiser_parameters + self.autoencoder_parameters + self.encoder_parameters

    def whole_bytes(self, itemsize: int) -> int:
        """The least that one picture takes with all parts on the device: weights and activations."""
        return self.parameters * itemsize + max(self.call.peak_bytes, self.decode.peak_bytes)


@dataclass(frozen=True)
class _Counted:
    """Figures of one model: parameters, operations, and activations with numbers of two bytes and of four."""

    parameters: tuple[int, int, int]
    flops: tuple[float, float]
    call_bytes: tuple[int, int]
    decode_bytes: tuple[int, int]


_COUNTED = {
    "sd15": _Counted(
        (859_520_964, 83_653_863, 123_060_480),
        (1_606_546_882_560, 2_514_518_933_504),
        (136_557_828, 273_115_656),
        (402_685_952, 805_371_904),
    ),
    "sdxl": _Counted(
        (2_567_463_684, 83_653_863, 817_720_320),
        (13_522_472_796_160, 10_470_392_594_432),
        (330_943_772, 661_887_544),
        (1_610_743_808, 3_221_487_616),
    ),
    "sd3.5-medium": _Counted(
        (2_243_171_520, 83_821_011, 5_580_030_976),
        (22_499_147_415_552, 10_472_212_398_080),
        (364_013_572, 728_027_144),
        (1_611_137_024, 3_222_274_048),
    ),
    "flux": _Counted(
        (11_901_408_320, 83_821_011, 4_885_371_136),
        (74_384_653_418_496, 10_472_212_398_080),
        (490_785_796, 863_606_792),
        (1_611_137_024, 3_222_274_048),
    ),
    "wan-1.3b": _Counted(
        (1_418_996_800, 126_892_531, 5_680_910_336),
        (566_003_575_554_048, 275_352_205_639_680),
        (3_181_770_756, 6_363_467_784),
        (4_240_204_800, 8_166_976_512),
    ),
}


def known_work(name: str, itemsize: int) -> OnPaper:
    """What `on_paper.rehearse_on_paper` counts for a model of the table, in a number format of 2 or 4 bytes."""
    counted, wide = _COUNTED[name], (2, 4).index(itemsize)
    call, decode = counted.flops
    return OnPaper(*counted.parameters, Work(call, counted.call_bytes[wide]), Work(decode, counted.decode_bytes[wide]))
