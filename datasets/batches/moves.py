"""Crops, paddings, flips and quarter turns as one exact move of pixels, and warps as one resampling of a batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datasets.batches.pool import Pool

VIEWS = 8  # of a square: four quarter turns, each mirrored or not


def view_count(flipped_axes: int, turned: bool) -> int:
    """How many views come up where so many axes, 0 to 2, are flipped at random, and squares turned."""
    return (4 if flipped_axes == 0 else VIEWS) if turned else 2**flipped_axes


@dataclass(frozen=True)
class Moves:
    """Where each pixel of each moved sample comes from; all arrays int64.

    Pixel (r, c) of a moved sample is pixel `start + r * row_step + c * column_step` of the stored one, counted row by
    row, where it lies `inside`; elsewhere it is padding.

    Args:
        size: (H, W) of all moved samples.
        start, row_step, column_step: (B,).
        inside: (B, 4): the rectangle of the moved sample that the stored one fills, [first row, last row + 1, first
            column, last column + 1].
        view: (B,), below `VIEWS`: which way the window is turned and mirrored.
    """

    size: tuple[int, int]
    start: np.ndarray
    row_step: np.ndarray
    column_step: np.ndarray
    inside: np.ndarray
    view: np.ndarray

    @property
    def padded(self) -> bool:
        """Whether any sample has padding."""
        return bool((self.inside != (0, self.size[0], 0, self.size[1])).any())


def exact_moves(
    heights: np.ndarray,
    widths: np.ndarray,
    corners: np.ndarray,
    size: tuple[int, int],
    flips: np.ndarray | None = None,
    turns: np.ndarray | None = None,
) -> Moves:
    """Cut a window of `size` out of each stored sample, flip it, then turn it.

    Args:
        heights, widths: (B,), of the stored samples.
        corners: (B, 2), row and column of the window's first pixel in the stored sample; negative where it is padded.
        size: (H, W) of the window, square where it is turned.
        flips: bool (B, 2): whether rows, and columns, are reversed.
        turns: (B,), quarter turns counterclockwise as `numpy.rot90` has them, 0 to 3.
    """
    count = len(heights)
    last = np.array(size) - 1
    if flips is None:
        flips = np.zeros((count, 2), bool)
    if turns is None:
        turns = np.zeros(count, np.int64)
    assert size[0] == size[1] or not turns.any(), "only a square can be turned"
    turned = turns % 2 == 1
    # Before the turn pixel (r, c) is (r, c), (c, last - r), (last - r, last - c) or (last - c, r).
    backward = np.stack((turns >= 2, (turns == 1) | (turns == 2)), axis=1) ^ flips
    step = np.where(backward, -1, 1)  # along the window's rows and columns
    first = corners + np.where(backward, last, 0)
    row_step = np.where(turned, step[:, 1], step[:, 0] * widths)
    column_step = np.where(turned, step[:, 0] * widths, step[:, 1])
    # The stored sample fills those steps of each axis at which `first + step * k` is one of its rows or columns.
    lengths = np.stack((heights, widths), axis=1)
    begin = np.where(backward, first - lengths + 1, -first)
    sides = np.stack((begin, begin + lengths), axis=2)
    sides[turned] = sides[turned][:, ::-1]
    inside = np.clip(sides, 0, np.array(size)[:, None]).reshape(count, 4)
    start = first[:, 0] * widths + first[:, 1]
    return Moves(size, start, row_step, column_step, inside, turned + backward @ np.array((2, 4)))


def moved(pool: Pool, places: np.ndarray, moves: Moves) -> dict[str, Tensor]:
    """The parts of these samples of a pool, moved: (B, C, H, W) in their stored number formats, on the pool's device.

    What is not `inside` may hold any number: `filled` puts the padding there.

    places: int64 (B,), or (B, several), of one height and width in a row: the channels of the "image" are then those of
    all of them one after the other, and every other part is that of the middle one.
    """
    take = _copied if pool.device.type == "cpu" else _looked_up
    return take(pool, places.reshape(len(moves.start), -1), moves)


def _of_part(name: str, places: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """The columns of (B, several, ...) whose samples make up a part."""
    middle = places.shape[1] // 2
    return places if name == "image" else places[:, middle : middle + 1]


def _copied(pool: Pool, places: np.ndarray, moves: Moves) -> dict[str, Tensor]:
    """Copies strided views, which a CPU does 2 to 3 times as fast as looking up every pixel."""
    out = {}
    for name, flat in pool.parts.items():
        rows = _of_part(name, places)
        several, channels, stored, wide = rows.shape[1], pool.channels(name), flat.numpy(), flat.itemsize
        make = torch.zeros if moves.padded else torch.empty
        out[name] = make((len(rows), several * channels, *moves.size), dtype=flat.dtype)
        each, rows = np.repeat(np.arange(len(rows)), several), rows.reshape(-1)
        before, planes = pool.offsets[rows] * channels, pool.heights[rows] * pool.widths[rows]
        steps = zip(before + moves.start[each], planes, moves.row_step[each], moves.column_step[each], strict=True)
        targets = out[name].view(-1, channels, *moves.size).numpy()
        for target, (first, plane, down, right), (top, bottom, left, end) in zip(
            targets, np.array(list(steps)).tolist(), moves.inside[each].tolist(), strict=True
        ):
            shape, strides = (channels, bottom - top, end - left), (plane * wide, down * wide, right * wide)
            at = (first + top * down + left * right) * wide
            target[:, top:bottom, left:end] = np.ndarray(shape, stored.dtype, stored, at, strides)
    return out


def _looked_up(pool: Pool, places: np.ndarray, moves: Moves) -> dict[str, Tensor]:
    """Looks up every pixel: a few operations for any batch, none of which waits for the device."""
    steps = np.stack((moves.start, moves.row_step, moves.column_step))[:, :, None]
    table = np.stack((pool.offsets[places], pool.heights[places] * pool.widths[places]))
    table = on_device(np.concatenate((table, np.broadcast_to(steps, (3, *places.shape)))), pool.device)
    before, plane, *steps = table[..., None, None, None]
    start, down, right = (step[:, :1] for step in steps)
    rows, columns = (torch.arange(length, device=pool.device) for length in moves.size)
    within = start + down * rows[:, None] + right * columns
    out: dict[str, Tensor] = {}
    indices: dict[tuple[int, int], Tensor] = {}
    for name, flat in pool.parts.items():
        channels, first, planes = pool.channels(name), _of_part(name, before), _of_part(name, plane)
        key = channels, first.shape[1]
        if key not in indices:
            channel = torch.arange(channels, device=pool.device)[:, None, None]
            index = (first * channels + planes * channel + within).flatten(1, 2)
            indices[key] = index.clamp_(0, flat.numel() - 1) if moves.padded else index
        out[name] = flat.take(indices[key])
    return out


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A small array as a tensor there, without waiting until it is there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def filled(image: Tensor, inside: Tensor, value: float) -> Tensor:
    """(B, C, H, W) with `value` outside the rectangles `inside`, int64 (B, 4) as `Moves.inside` has them."""
    top, bottom, left, end = inside.T[..., None, None, None]
    rows, columns = (torch.arange(length, device=image.device) for length in image.shape[2:])
    rows = rows[:, None]
    return torch.where((rows >= top) & (rows < bottom) & (columns >= left) & (columns < end), image, value)


def affine_matrices(angles: np.ndarray, scales: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The matrices by which MONAI's RandAffine warps: (B, 6), each of rows [a, b, c] and [d, e, f].

    Pixel (y, x) of the result, counted from the center, comes from (a y + b x + c, d y + e x + f).

    Args:
        angles: (B,), in radians.
        scales, shifts: (B, 2), of rows and columns; shifts in pixels.
    """
    cosine, sine = np.cos(angles), np.sin(angles)
    rows = cosine * scales[:, 0], -sine * scales[:, 1], cosine * shifts[:, 0] - sine * shifts[:, 1]
    columns = sine * scales[:, 0], cosine * scales[:, 1], sine * shifts[:, 0] + cosine * shifts[:, 1]
    return np.stack((*rows, *columns), axis=1)


def warp_grid(matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the pixels of warped images of `size` (H, W) come from, float32 (B, H, W, 2) as `grid_sample` wants it.

    matrices: float64 (B, 6), see `affine_matrices`. `monai.networks.layers.AffineTransform` does the same, but asks the
    device for values unless the matrices are normalized, and multiplies matrices where this adds, which takes far
    longer on a CPU, and which a GPU may compute with 10 bits.
    """
    height, width = size
    a, b, c, d, e, f = matrices.T[..., None, None]
    row, column = (
        torch.arange(length, device=matrices.device, dtype=torch.float64) - (length - 1) / 2 for length in size
    )
    row = row[:, None]
    grid = torch.empty((len(matrices), 2, *size), device=matrices.device)
    torch.add(((d * row + f) * (2 / width)).float(), (e * column * (2 / width)).float(), out=grid[:, 0])
    torch.add(((a * row + c) * (2 / height)).float(), (b * column * (2 / height)).float(), out=grid[:, 1])
    return grid.permute(0, 2, 3, 1)


def warped(image: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Images (B, C, H, W), resampled at a grid as float32; what lies outside is mirrored at the border.

    mode: `bilinear` or `nearest`.
    """
    return functional.grid_sample(image.float(), grid, mode, "reflection", align_corners=False)
