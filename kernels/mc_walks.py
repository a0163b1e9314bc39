"""The loops of `mc_features` on a CPU: a tile of problems over blocks of paths, in Numba.

A block of paths is a row of lanes, even paths first and odd ones behind them, so that antithetic partners are made
together. Everything in a loop over lanes is 32 bits wide, and LLVM turns it into vector instructions. Only the state
of one block and its noise of 8 or 128 steps are in memory, whatever n_paths is.

Lattice walks (constant volatility, no drift) take eight steps at once. Net move and highest point of two pieces of a
walk, one behind the other, give those of both,

    net = net1 + net2,   peak = max(peak1, net1 + peak2),

so the 32 steps of a word are reduced to four bytes by arithmetic on all its fields of two, then of four bits together.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import cpu
from kernels.cpu import (
    add,
    conjunction,
    maximum,
    minimum,
    multiply_low,
    shift_left,
    shift_right,
    signed,
    subtract,
    xor,
)

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]

BINS = 512  # of the histogram, uniform in terminal / sd over +-8; the outer bins are open
NONE_BELOW, NONE_ABOVE = np.iinfo(np.int32).min, np.iinfo(np.int32).max
GROUP = 8  # steps that a lane takes between loading and storing its state
_BLOCK = 128  # steps whose bits are made together


class Address(NamedTuple):
    """Where the randomness is, but for step, path and problem."""

    tag: np.uint32  # op and stream
    seed_low: np.uint32
    seed_high: np.uint32
    antithetic: bool


class Tile(NamedTuple):
    """R neighbouring problems in fixed point."""

    ids: UInt32  # [R]
    scale: Int32  # [R]: a log return is its integer times 2^-scale
    amplitude: Int32  # [R, n]
    drift: Int32  # [R, n]
    limit: Int32  # [R]: a path hits where its maximum reaches this
    limit_low: Int32  # [R]: and where its minimum falls to this
    sd: Int64  # [R]: standard deviation of the terminal value, at least 1
    observed: Int32  # [R], or [0] where there is none


class Totals(NamedTuple):
    """What the paths of a tile add up to, [R] each."""

    hits: Int64
    hits_low: Int64
    sum_mdd: Int64
    sum_terminal: Int64
    hist: Int32  # [R, BINS], or [0, BINS] where it is not wanted
    below: Int64
    equal: Int64
    next_below: Int32
    next_above: Int32


Walks = Callable[[Tile, int, Address, int, int, int, Totals], None]
"""(tile, n_steps, address, first path, end of the paths, lanes, totals to add to); first path and lanes are even."""


def stepwise(tile: Tile, n_steps: int) -> Tile:
    """A tile with a column for each step, and as many that do not move as make a multiple of GROUP.

    Where the volatility is constant, all groups but the last are alike: two are enough, whatever n_steps is.
    """
    size, unused = -(-n_steps // GROUP) * GROUP, -n_steps % GROUP
    if tile.amplitude.shape[1] == 1:
        size = min(size, 2 * GROUP)
    shape = len(tile.ids), size
    amplitude, drift = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    amplitude[:, : size - unused], drift[:, : size - unused] = tile.amplitude, tile.drift
    return tile._replace(amplitude=amplitude, drift=drift)


@cache
def general(normal: bool, low: bool, drawdown: bool) -> Walks:
    """Walks step by step, of `stepwise` tiles. low, drawdown: whether these are followed; the maximum always is."""
    move = _move(low, drawdown)
    fill, follow = (_fill_normals, _by_normals(move)) if normal else (_fill_words, _by_bits(move))
    block, rows, dtype = (GROUP, GROUP, np.float32) if normal else (_BLOCK, 4, np.uint32)

    @cpu.jit
    def walk(tile: Any, n_steps: Any, address: Any, first: Any, end: Any, lanes: Any, totals: Any) -> None:
        problems, columns = tile.amplitude.shape
        n = -(-n_steps // GROUP) * GROUP
        words, noise = np.empty((4, lanes), np.uint32), np.empty((rows, lanes), dtype)
        state = np.empty((problems, 4, lanes), np.int32)
        for start in range(first, end, lanes):
            count = min(lanes, end - start)
            width = count + count % 2
            state[:] = 0
            for step in range(0, n, block):
                for r in range(problems):
                    if r == 0 or tile.ids[r] != tile.ids[r - 1]:
                        fill(noise, words, width, step, start, tile.ids[r], address)
                    for k in range(step, min(step + block, n), GROUP):
                        c = k if columns == n else (0 if k + GROUP < n else GROUP)
                        a, m = tile.amplitude[r, c : c + GROUP], tile.drift[r, c : c + GROUP]
                        follow(noise, k, a, m, state[r], width)
            for r in range(problems):
                _add(totals, tile, r, state[r], count)

    return walk


@cache
def lattice(high: bool, low: bool) -> Walks:
    """Bit walks of constant volatility without drift, of tiles with one column; no drawdown.

    high, low: which of them are followed, at least one.
    """
    follow = _by_words(high, low)

    @cpu.jit
    def walk(tile: Any, n_steps: Any, address: Any, first: Any, end: Any, lanes: Any, totals: Any) -> None:
        words, unused = np.empty((4, lanes), np.uint32), np.int32(-n_steps % 32)
        unit, state = np.empty((3, lanes), np.int32), np.zeros((4, lanes), np.int32)
        for start in range(first, end, lanes):
            count = min(lanes, end - start)
            width = count + count % 2
            for r in range(len(tile.ids)):
                if r == 0 or tile.ids[r] != tile.ids[r - 1]:
                    unit[:] = 0
                    for step in range(0, n_steps, 32):
                        if step % _BLOCK == 0:
                            _fill_words(words, words, width, step, start, tile.ids[r], address)
                        # the bits beyond n_steps count as steps down, which raise no maximum
                        follow(words[(step >> 5) & 3], _used(step, n_steps), unit, width)
                _scale(state, unit, tile.amplitude[r, 0], unused)
                _add(totals, tile, r, state, count)

    return walk


@cache
def ends() -> Walks:
    """Bit walks of constant volatility and drift of which only the terminal value counts, of tiles with one column."""

    @cpu.jit
    def walk(tile: Any, n_steps: Any, address: Any, first: Any, end: Any, lanes: Any, totals: Any) -> None:
        unit, x = np.empty(lanes, np.int32), np.empty(lanes, np.int32)
        for start in range(first, end, lanes):
            count = min(lanes, end - start)
            width = count + count % 2
            for r in range(len(tile.ids)):
                if r == 0 or tile.ids[r] != tile.ids[r - 1]:
                    unit[:] = -np.int32(n_steps)
                    for step in range(0, n_steps, _BLOCK):
                        _add_ups(unit, width, step, n_steps, start, tile.ids[r], address)
                    if address.antithetic:
                        _mirror(unit, width)
                a, shift = tile.amplitude[r, 0], np.int32(tile.drift[r, 0] * n_steps)
                for i in range(width):
                    x[i] = add(multiply_low(unit[i], a), shift)
                _add_ends(totals, tile, r, x, count)

    return walk


def _move(low: bool, drawdown: bool) -> Any:
    @cpu.inner
    def move(state: Any, step: Any) -> Any:
        x, high, bottom, fall = state
        x = add(x, step)
        high = maximum(high, x)
        if low:
            bottom = minimum(bottom, x)
        if drawdown:
            fall = maximum(fall, subtract(high, x))
        return x, high, bottom, fall

    return move


def _by_bits(move: Any) -> Any:
    """GROUP steps from step k on, of the state [4, lanes] of a problem."""

    @cpu.inner
    def follow(words: Any, k: Any, a: Any, m: Any, state: Any, width: Any) -> None:
        word, first = words[(k >> 5) & 3], np.uint32(k & 31)
        x, high, bottom, fall = state[0, :width], state[1, :width], state[2, :width], state[3, :width]
        for i in range(len(x)):
            bits, lane = shift_right(word[i], first), (x[i], high[i], bottom[i], fall[i])
            for j in range(GROUP):
                up = conjunction(bits, shift_left(np.uint32(1), np.uint32(j)))
                lane = move(lane, add(m[j], a[j] if up else subtract(np.int32(0), a[j])))
            x[i], high[i], bottom[i], fall[i] = lane

    return follow


def _by_normals(move: Any) -> Any:
    """As `_by_bits`, with z [GROUP, lanes]."""

    @cpu.inner
    def follow(z: Any, k: Any, a: Any, m: Any, state: Any, width: Any) -> None:
        x, high, bottom, fall = state[0, :width], state[1, :width], state[2, :width], state[3, :width]
        for i in range(len(x)):
            lane = x[i], high[i], bottom[i], fall[i]
            for j in range(GROUP):
                lane = move(lane, add(m[j], cpu.nearest_int(z[j, i] * cpu.float_of_int(a[j]))))
            x[i], high[i], bottom[i], fall[i] = lane

    return follow


def _by_words(high: bool, low: bool) -> Any:
    """32 steps of +-1 of the walks in unit [3, lanes]: position, maximum, and maximum of the mirrored walk."""

    @cpu.inner
    def follow(word: Any, used: Any, unit: Any, width: Any) -> None:
        x, top, depth = unit[0, :width], unit[1, :width], unit[2, :width]
        for i in range(len(x)):
            ups = conjunction(word[i], used)
            if low:
                _, depth[i] = _climb(subtract(np.int32(0), x[i]), depth[i], xor(ups, used))
            if high:
                x[i], top[i] = _climb(x[i], top[i], ups)
            else:
                x[i] = add(x[i], subtract(signed(shift_left(cpu.popcount(ups), _U1)), np.int32(32)))

    return follow


@cpu.inner
def _used(step: Any, n_steps: Any) -> Any:
    """Bits of the word of steps `step` .. `step` + 31 that are steps of the walk."""
    beyond = min(32, max(0, step + 32 - n_steps))
    return np.uint32(0) if beyond == 32 else shift_right(_ONES, np.uint32(beyond))


@cpu.inner
def _mirror(x: Any, width: Any) -> None:
    """Odd paths as mirror images of the even ones before them."""
    even, mirrored = x[: width // 2], x[width // 2 : width]
    for i in range(len(even)):
        mirrored[i] = subtract(np.int32(0), even[i])


@cpu.inner
def _add_ups(x: Any, width: Any, step: Any, n_steps: Any, start: Any, problem: Any, address: Any) -> None:
    """Add twice the steps up among 128 from `step` on, lanes as in `_fill_words`; the words stay in registers."""
    half, block = width // 2, np.uint32(step >> 7)
    m0, m1, m2, m3 = (
        _used(step, n_steps),
        _used(step + 32, n_steps),
        _used(step + 64, n_steps),
        _used(step + 96, n_steps),
    )
    for odd in range(1 if address.antithetic else 2):
        lanes, first_path = x[odd * half : (odd + 1) * half], np.uint32(start + odd)
        k0, k1, tag = address.seed_low, address.seed_high, address.tag
        for i in range(len(lanes)):
            path = add(first_path, shift_left(np.uint32(i), _U1))
            w0, w1, w2, w3 = cpu.philox4x32(block, path, problem, tag, k0, k1)
            first, second = cpu.popcount(conjunction(w0, m0)), cpu.popcount(conjunction(w1, m1))
            third, fourth = cpu.popcount(conjunction(w2, m2)), cpu.popcount(conjunction(w3, m3))
            ups = add(add(first, second), add(third, fourth))
            lanes[i] = add(lanes[i], signed(shift_left(ups, _U1)))


_ONES, _BYTE = np.uint32(0xFFFFFFFF), np.uint32(0xFF)
_PAIR_FIRST = np.uint32(0x55555555)
# for joined fields of 4, then of 8 bits: lower half, width of a half, steps of a half, guard bit, place of the guard
_TO_NIBBLES = np.uint32(0x33333333), np.uint32(2), np.uint32(0x22222222), np.uint32(0x88888888), np.uint32(3)
_TO_BYTES = np.uint32(0x0F0F0F0F), np.uint32(4), np.uint32(0x04040404), np.uint32(0x80808080), np.uint32(7)
_U1, _U8 = np.uint32(1), np.uint32(8)


@cpu.inner
def _join(ups: Any, peak: Any, fields: Any) -> Any:
    """Two neighbouring fields become one: number of ups, and highest point over the start (0 .. number of steps)."""
    lower, width, steps, guard, place = fields
    ups1, ups2 = conjunction(ups, lower), conjunction(shift_right(ups, width), lower)
    first = add(conjunction(peak, lower), steps)  # peak1 + steps
    second = add(conjunction(shift_right(peak, width), lower), shift_left(ups1, _U1))  # net1 + peak2 + steps
    excess = subtract(xor(first, guard), second)  # a field keeps its guard bit where first >= second
    kept = conjunction(excess, guard)
    excess = conjunction(excess, subtract(kept, shift_right(kept, place)))
    return add(ups1, ups2), subtract(add(second, excess), steps)


@cpu.inner
def _climb(x: Any, high: Any, word: Any) -> Any:
    """Position and maximum of a walk of unit steps after the 32 steps of a word."""
    first, second = conjunction(word, _PAIR_FIRST), conjunction(shift_right(word, _U1), _PAIR_FIRST)
    ups, peak = add(first, second), add(first, conjunction(first, second))
    ups, peak = _join(ups, peak, _TO_NIBBLES)
    ups, peak = _join(ups, peak, _TO_BYTES)
    net = shift_left(ups, _U1)
    for _ in range(4):
        high = maximum(high, add(x, signed(conjunction(peak, _BYTE))))
        x = add(x, subtract(signed(conjunction(net, _BYTE)), np.int32(8)))
        net, peak = shift_right(net, _U8), shift_right(peak, _U8)
    return x, high


@cpu.inner
def _scale(state: Any, unit: Any, a: Any, unused: Any) -> None:
    """State in fixed point of walks in units of their step a, which took `unused` steps down too many."""
    for i in range(unit.shape[1]):
        state[0, i] = multiply_low(add(unit[0, i], unused), a)
        state[1, i] = multiply_low(unit[1, i], a)
        state[2, i] = multiply_low(subtract(np.int32(0), unit[2, i]), a)


@cpu.inner
def _philox(words: Any, first: Any, end: Any, block: Any, path: Any, problem: Any, address: Any) -> None:
    """Words [4, lanes] of every other path from `path` on, in the lanes first .. end - 1."""
    w0, w1, w2, w3 = words[0, first:end], words[1, first:end], words[2, first:end], words[3, first:end]
    for i in range(len(w0)):
        c1 = add(np.uint32(path), shift_left(np.uint32(i), _U1))
        w0[i], w1[i], w2[i], w3[i] = cpu.philox4x32(
            np.uint32(block), c1, problem, address.tag, address.seed_low, address.seed_high
        )


@cpu.inner
def _fill_words(words: Any, unused: Any, width: Any, step: Any, start: Any, problem: Any, address: Any) -> None:
    """Bits of 128 steps from `step` on, words [4, lanes]; even paths from `start` on, then odd ones."""
    half = width // 2
    for odd in range(1 if address.antithetic else 2):
        _philox(words, odd * half, (odd + 1) * half, step >> 7, start + odd, problem, address)
    if address.antithetic:
        for row in words:
            even, mirrored = row[:half], row[half:width]
            for i in range(half):
                mirrored[i] = xor(even[i], _ONES)


@cpu.inner
def _fill_normals(z: Any, words: Any, width: Any, step: Any, start: Any, problem: Any, address: Any) -> None:
    """Normals of GROUP steps from `step` on, z [GROUP, lanes], likewise."""
    half = width // 2
    made = half if address.antithetic else width
    for first in range(0, GROUP, 4):
        for odd in range(made // half):
            _philox(words, odd * half, (odd + 1) * half, (step + first) >> 2, start + odd, problem, address)
        for k in range(0, 4, 2):
            radius, angle, cosine, sine = words[k], words[k + 1], z[first + k], z[first + k + 1]
            for i in range(made):
                cosine[i], sine[i] = cpu.normals32(radius[i], angle[i])
    if address.antithetic:
        for row in z:
            even, mirrored = row[:half], row[half:width]
            for i in range(half):
                mirrored[i] = -even[i]


@cpu.inner
def _add(totals: Any, tile: Any, r: Any, state: Any, count: Any) -> None:
    """Add the first `count` lanes of a block, state [4, lanes], to the totals of problem r."""
    x, high, bottom, fall = state[0], state[1], state[2], state[3]
    hits, hits_low, sum_mdd = 0, 0, 0
    for i in range(count):
        hits += high[i] >= tile.limit[r]
        hits_low += bottom[i] <= tile.limit_low[r]
        sum_mdd += fall[i]
    totals.hits[r] += hits
    totals.hits_low[r] += hits_low
    totals.sum_mdd[r] += sum_mdd
    _add_ends(totals, tile, r, x, count)


@cpu.inner
def _add_ends(totals: Any, tile: Any, r: Any, x: Any, count: Any) -> None:
    """Add what follows from the terminal values alone."""
    sum_terminal = 0
    for i in range(count):
        sum_terminal += x[i]
    totals.sum_terminal[r] += sum_terminal
    if len(totals.hist):
        _count(totals.hist[r], x, count, tile.sd[r])
    if len(tile.observed):
        _rank(totals, r, x, count, tile.observed[r])


@cpu.inner
def _count(hist: Any, x: Any, count: Any, sd: Any) -> None:
    """Add x to the histogram; in integers, so that every backend finds the same bin."""
    for i in range(count):
        distance = np.int64(x[i]) * (BINS // 16) + (BINS // 2) * sd  # from the lower end, in bins x sd
        hist[min(distance // sd, BINS - 1) if distance > 0 else 0] += 1


@cpu.inner
def _rank(totals: Any, r: Any, x: Any, count: Any, observed: Any) -> None:
    below, equal = 0, 0
    next_below, next_above = totals.next_below[r], totals.next_above[r]
    for i in range(count):
        below += x[i] < observed
        equal += x[i] == observed
        next_below = maximum(next_below, x[i] if x[i] < observed else next_below)
        next_above = minimum(next_above, x[i] if x[i] > observed else next_above)
    totals.below[r] += below
    totals.equal[r] += equal
    totals.next_below[r], totals.next_above[r] = next_below, next_above
