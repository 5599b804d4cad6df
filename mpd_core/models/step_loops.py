"""The little that a step computes before its layers and behind them, on a CPU.

A token's vector out of blocks, and the PCM's head: in torch's operators a dozen of them each, which
take longer than their arithmetic.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from mpd_core.models.block_loops import FOUR, HALF, PANEL, Codes, Scales
from mpd_core.models.compiling import compiled
from mpd_core.models.level_loops import BLOCK
from mpd_core.models.number_code import ONE, ZERO, Array, Whole, dot, softmax, to_fp32


@compiled()
def embed(codes: Codes, scales: Scales, tokens: Whole, out: Array) -> None:
    """Rows of a matrix in blocks, unpacked.

    Args:
        codes: see ``block_loops.multiply``.
        scales: likewise.
        tokens: which rows, [n].
        out: [n, 32 blocks].
    """
    blocks, words = codes.shape[1:3]
    for row in range(len(tokens)):
        panel, lane = tokens[row] // PANEL, tokens[row] % PANEL
        for block in range(blocks):
            first, held = block * BLOCK, codes[panel, block, :, lane]
            d = to_fp32(scales[panel, block, 0, lane])
            if words * FOUR == BLOCK:
                for i in range(BLOCK):
                    out[row, first + i] = np.float32(np.int8(held[i // FOUR, i % FOUR])) * d
                continue
            m = to_fp32(scales[panel, block, 1, lane])
            for i in range(HALF):
                code = held[i // FOUR, i % FOUR]
                out[row, first + i] = np.float32(code & 15) * d + m
                out[row, first + HALF + i] = np.float32(code >> 4) * d + m


@compiled()
def weigh(
    hidden: Array, weight: Array, bias: Array, pairs: Array, poles: Whole, top: bool, out: Array
) -> None:
    """``WeightHead.expert_weights`` of last states, and with ``top`` ``top_one`` of that.

    Args:
        hidden: [n, D].
        weight: of the head, [poles, D].
        bias: likewise, [poles].
        pairs: likewise, [poles, poles].
        poles: index of each expert's pole, all different, [n, E].
        top: whether only the largest weight counts.
        out: alpha, [n, E].
    """
    for row in range(len(hidden)):
        own, alpha = poles[row], out[row]
        for i in range(len(own)):
            pole = own[i]
            score = dot(weight[pole], hidden[row]) + bias[pole]
            beside = ZERO
            for k in range(len(own)):
                beside += pairs[pole, own[k]]
            alpha[i] = score + beside
        softmax(alpha)
        if top:
            first = np.argmax(alpha)
            alpha[:] = ZERO
            alpha[first] = ONE


@cache
def prepare() -> None:
    """Compile both for this CPU, or take their code from disk."""
    x, ids = np.ones((1, 2), np.float32), np.zeros((1, 1), np.int64)
    weigh(x, x, x[0, :1], x[:, :1].copy(), ids, False, x[:, :1].copy())
    codes, scales = np.zeros((1, 1, 4, PANEL, FOUR), np.uint8), np.zeros((1, 1, 2, PANEL), np.int16)
    embed(codes, scales, ids[0], np.empty((1, BLOCK), np.float32))
