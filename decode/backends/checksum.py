"""Whether weights have changed, whoever wrote them: what goes through `.data` raises no version counter."""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lede.decode.backends.compile import library

LANES = 64  # of checksum.c


def checksums(tensors: Sequence[Tensor]) -> bytes:
    """Other bytes for other numbers; the same for the same on the same kind of device. Reads all of the memory once.

    Of integers and floating-point numbers of 2, 4 or 8 bytes.
    """
    flat = [tensor if tensor.is_contiguous() else tensor.contiguous() for tensor in tensors]
    words = [tensor.numel() * tensor.itemsize // 4 for tensor in flat]
    compiled = _compiled()
    if compiled is None or any(tensor.device.type != "cpu" or tensor.nbytes % 4 for tensor in flat):
        return _summed(flat)
    count, out = len(flat), torch.empty((len(flat), LANES), dtype=torch.int32)
    blocks = (ctypes.c_void_p * count)(*(tensor.data_ptr() for tensor in flat))
    compiled(blocks, (ctypes.c_int64 * count)(*words), count, torch.get_num_threads(), out.data_ptr())
    return out.numpy().tobytes()


@functools.cache
def _compiled() -> Any:
    """checksum.c, or None where there is no C compiler."""
    loaded = library("checksum")
    if loaded is None:
        return None
    loaded.lede_checksums.restype = None
    loaded.lede_checksums.argtypes = (*(ctypes.c_void_p,) * 2, *(ctypes.c_int32,) * 2, ctypes.c_void_p)
    return loaded.lede_checksums


def _summed(tensors: Sequence[Tensor]) -> bytes:
    """The same in torch operations: the sums of each row and each column of a matrix, all of a vector."""
    sums = []
    for tensor in tensors:
        bits = tensor.detach().view(torch.int16 if tensor.itemsize == 2 else torch.int32)
        sums += [bits.sum(0), bits.sum(-1)] if bits.dim() > 1 else [bits.long()]
    return torch.cat([one.flatten() for one in sums]).cpu().numpy().tobytes()
