"""Memory: how many cells fit at once, and how to recognise that they don't."""

import contextlib
import gc
from collections.abc import Iterator

import torch

from engine.errors import LabError

# Messages of RuntimeErrors that mean out of memory (MPS, cuDNN, cuBLAS, the CPU).
_LACKING = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "insufficient memory")
# From meta tensors of Stable Diffusion 1.5 and SDXL: the UNet's activations for a guided cell take 520 bytes per pixel
# at 512 x 512 and 320 at 1024 x 1024; decoding four pictures of 512 x 512 at once in float16 takes 1.5 GiB.
CELL_BYTES_PER_PIXEL = 1000
DECODE_BYTES_PER_PIXEL = 1600
# Pixels decoded at once: 32 small pictures, 4 of 512 x 512, 1 of 1024 x 1024.
DECODED_PIXELS = 2**20
MOST_ON_GPU = 32
# Errors of an accelerator after which it works on: they are of one call.
_OF_A_CALL = ("invalid configuration", "invalid argument", "invalid device function", "not supported")
NO_KERNELS = (
    "This build of torch has no code for this GPU: install one that has (https://pytorch.org), or use --device cpu."
)
LOST_DEVICE = "The GPU stopped responding. Finished work is saved; the same command continues from there."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory; not every backend has a class for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _LACKING)


def is_lost_device(error: BaseException) -> bool:
    """Whether the device has stopped responding, so that everything after would fail too."""
    if not isinstance(error, torch.AcceleratorError) or is_out_of_memory(error):
        return False
    return not any(text in str(error).lower() for text in _OF_A_CALL)


def raise_if_lost(error: Exception) -> None:
    """Ends the run if an error says that the device is lost; anywhere, since a GPU tells of a fault long after it.

    Raises:
        LabError: It is, or torch has no code for it.
    """
    if "no kernel image" in str(error).lower():
        raise LabError(f"{NO_KERNELS} ({error})") from error
    if is_lost_device(error):
        raise LabError(f"{LOST_DEVICE} ({error})") from error


def release_unused() -> None:
    """Returns unused memory to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def default_max_batch(device: str, width: int, height: int) -> int:
    """Default number of cells in flight: limited by free memory on CUDA, elsewhere by the speed-up.

    On CUDA, call it after loading the model. The estimate is cautious; batches that still run out of memory are halved.
    """
    pixels = width * height
    if device == "cuda":
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # by torch, from what ran before
        free = torch.cuda.mem_get_info()[0] + cached
        spare = free - DECODE_BYTES_PER_PIXEL * max(pixels, DECODED_PIXELS)
        return int(max(1, min(MOST_ON_GPU, spare // (CELL_BYTES_PER_PIXEL * pixels))))
    return max(2, min(32, 2**20 // pixels))


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Disables TF32 in the context, so that float32 cells are equal on every device up to rounding."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
