"""Room in memory: how many cells fit side by side, and what to do when they don't."""

import contextlib
import gc
from collections.abc import Iterator

import torch

# What libraries say when memory has run out and they raise a RuntimeError for it (MPS, cuDNN, cuBLAS, the CPU).
_LACKING = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "insufficient memory")
# From meta tensors of Stable Diffusion 1.5 and SDXL: the UNet's activations for a guided cell take 520 bytes a pixel at
# 512 x 512 and 320 at 1024 x 1024; four pictures of 512 x 512 decoded at once in float16 take 1.5 GiB.
CELL_BYTES_PER_PIXEL = 1000
DECODE_BYTES_PER_PIXEL = 1600
# Pixels decoded at once: 32 small pictures, 4 of 512 x 512, 1 of 1024 x 1024.
DECODED_PIXELS = 2**20
MOST_ON_GPU = 32
LOST_DEVICE = "The GPU answers no more. What was finished is saved; the same command, started anew, goes on from there."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out; not every backend has its own class for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _LACKING)


def is_lost_device(error: BaseException) -> bool:
    """Whether the device answers nothing any more, so that all that follows would fail likewise."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def release_unused() -> None:
    """Gives memory that no tensor uses back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def default_max_batch(device: str, width: int, height: int) -> int:
    """Cells in flight that suit a device: bounded by free memory on a GPU, by gain elsewhere.

    On CUDA it is asked after the model was loaded. The estimate is cautious, and what runs out of memory all the same
    is halved and goes on.
    """
    pixels = width * height
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        spare = free - DECODE_BYTES_PER_PIXEL * max(pixels, DECODED_PIXELS)
        return int(max(1, min(MOST_ON_GPU, spare // (CELL_BYTES_PER_PIXEL * pixels))))
    return max(2, min(32, 2**20 // pixels))


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32 while inside: a float32 cell is the same picture on every device, within rounding."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
