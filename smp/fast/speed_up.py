r"""Faster training steps on a CPU. `speed_up` switches on what this machine has.

- Memory: glibc returns large tensors to the system after each use. Here it keeps them.
- Attention with dropout, or in bf16: softmax(Q K^T / sqrt(d)) V is two batched products. One random
  byte per probability decides dropout; a random number for each takes twelve times as long. fp32
  without dropout and evaluations keep torch's attention, which is faster there.
- Products of fp32: those of oneDNN, on CPUs with AVX-512 where they round like fp32.

No choice depends on a measurement: a resumed run must compute the same numbers.
"""

import ctypes
import functools
import os
import platform
import time
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "smp_training"  # its name in transformers' AttentionInterface
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_memory() -> bool:
    """Let glibc keep freed memory for the next step. Return False where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def keep_bytes(shape: tuple, dropout: float) -> tuple[Tensor, float]:
    """Return (bool tensor, True with probability 1 - dropout; 1 / that probability).

    The bytes are those of 64-bit words of torch's generator, so dropout is a multiple of 1/256.
    """
    size, dropped = torch.Size(shape).numel(), round(256 * dropout)
    words = torch.empty(-(-size // 8), dtype=torch.int64).random_(-2**63, None)
    return words.view(torch.uint8)[:size].view(shape) >= dropped, 256 / (256 - dropped)


def scaled_bmm(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Return scale * left @ right (batch, rows, columns), rounded once."""
    return torch.baddbmm(left.new_empty(1), left, right, beta=0, alpha=scale)


class AttentionOfTraining(torch.autograd.Function):
    """Attention with dropout. query, key, value: (batch, heads, length, width).

    mask: bool (batch, 1, length, length), False where a token is not visible, or None. In bf16 the
    scores and their softmax are fp32; otherwise the gradients would be less exact than torch's.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
                scale: float, dropout: float) -> Tensor:
        q, k, v = (part.reshape(-1, *part.shape[2:]) for part in (query, key, value))
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = scaled_bmm(q.to(wide), k.to(wide).transpose(1, 2), scale)
        if mask is not None:
            scores.view(*query.shape[:3], -1).masked_fill_(~mask, -torch.inf)
        shares = scores.softmax(-1).to(q.dtype)
        kept, factor = keep_bytes(shares.shape, dropout) if dropout else (None, 1.0)
        out = torch.bmm(shares if kept is None else shares * kept, v).mul_(factor)
        ctx.save_for_backward(q, k, v, shares, kept)
        ctx.scale, ctx.factor = scale, factor
        return out.view(query.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, k, v, shares, kept = ctx.saved_tensors
        shape, grad = grad.shape, grad.reshape(q.shape) * ctx.factor
        of_value = torch.bmm((shares if kept is None else shares * kept).transpose(1, 2), grad)
        of_shares = torch.bmm(grad, v.transpose(1, 2))
        if kept is not None:
            of_shares.mul_(kept)
        of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
        of_query = scaled_bmm(of_scores, k, ctx.scale)
        of_key = scaled_bmm(of_scores.transpose(1, 2), q, ctx.scale)
        return (*(part.view(shape) for part in (of_query, of_key, of_value)), None, None, None)


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
              dropout: float = 0.0, scaling: float | None = None, **options: Any) -> tuple:
    """Return (attention (batch, length, heads, width), None), a function of AttentionInterface."""
    special = getattr(module, "is_causal", False) or options.get("position_bias") is not None
    if (special or not module.training or query.shape != key.shape
            or not (dropout or query.dtype == torch.bfloat16)):
        return sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, **options)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = AttentionOfTraining.apply(query, key, value, mask, scale, dropout)
    return out.transpose(1, 2).contiguous(), None


def use_attention(model: nn.Module) -> bool:
    """Let a model of transformers train with `attention`; False if its attention is its own."""
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)
    return model.config._attn_implementation == ATTENTION


@functools.cache
def use_onednn() -> bool:
    """Let oneDNN compute fp32 products. Return False where it would not, or would round to bf16."""
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision"):
        return False
    left, right = torch.linspace(-1, 1, 256 * 512).cos().view(2, 256, 256)
    exact, before, default = left.double() @ right.double(), left @ right, matmul.fp32_precision
    matmul.fp32_precision = "bf16"  # oneDNN may round to bf16; it does where bf16 is faster
    after = left @ right
    if torch.equal(after, before) or (after - exact).norm() > 1e-6 * exact.norm():
        matmul.fp32_precision = default
        return False
    return True


@functools.cache
def print_once(line: str) -> None:
    """Print a line that this process has not printed."""
    print(line, flush=True)


@functools.cache
def print_load() -> None:
    """Print a line, once, if other processes use the CPU. It takes 0.3 seconds."""
    own, began = time.process_time(), time.perf_counter()
    share = psutil.cpu_percent(0.3) / 100
    own = (time.process_time() - own) / (time.perf_counter() - began)
    busy = share * (psutil.cpu_count() or 1) - own  # the number of cores
    if busy > 0.3 and os.environ.get("WORLD_SIZE", "1") == "1":
        print_once(f"Other processes use {busy:.1f} of {psutil.cpu_count()} cores, so a step may "
                   "take several times as long: stop them, or use fewer threads (--threads, or "
                   "OMP_NUM_THREADS before a notebook starts).")


def speed_up(model: nn.Module) -> None:
    """Make training steps faster on this CPU, and print what changed. A GPU needs none of it.

    model: a stock model of transformers. Memory and products are those of the process; attention
    is that of the model, so call it again for each model.
    """
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return
    memory = "glibc keeps it" if keep_memory() else "unchanged (no glibc)"
    ours = "two products with dropout or bf16" if use_attention(model) else \
        f"unchanged ({type(model).__name__} has its own)"
    products = "oneDNN" if use_onednn() else "unchanged"
    print_once(f"speed_up: memory: {memory}; attention: {ours}; fp32 products: {products}")
    print_load()
