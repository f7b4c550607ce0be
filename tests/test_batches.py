"""The pieces of a batch: draws, the pool of samples, exact moves, warps and changes; MONAI is the reference."""

import tracemalloc

import numpy as np
import pytest
import torch
from monai.networks.layers import AffineTransform
from monai.transforms import AdjustContrast, Affine

from datasets.batches import draws, pool
from datasets.batches.changes import add_noise, adjust_contrast, changed, chosen, scale_and_shift, warp
from datasets.batches.draws import KEY_BITS, Draws, gaussian
from datasets.batches.moves import _looked_up, affine_matrices, exact_moves, filled, moved, warp_grid, warped
from datasets.batches.pool import load, pool_of

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)


# Draws


def test_a_row_depends_on_seed_epoch_and_index_alone():
    uniform = Draws(10, 4, seed=3)
    rows = uniform(range(10))
    assert rows.shape == (10, 4)
    assert np.array_equal(uniform([7, 2]), rows[[7, 2]])
    assert np.array_equal(Draws(10, 4, seed=3)([9]), rows[[9]])
    assert not np.array_equal(Draws(10, 4, seed=4)(range(10)), rows)
    uniform.epoch = 1
    assert not np.array_equal(uniform(range(10)), rows)
    assert len(uniform._drawn) == 1  # nothing is kept of an epoch that is over
    uniform.epoch = 0
    assert np.array_equal(uniform(range(10)), rows)


def test_a_repetition_has_a_row_of_its_own():
    uniform = Draws(10, 4, seed=3)
    first, again, third = uniform([2, 12, 22])
    assert len({tuple(first), tuple(again), tuple(third)}) == 3
    assert np.array_equal(uniform([12]), [again])
    uniform.epoch = 1
    assert not np.array_equal(uniform([12]), [again])


def test_a_sample_that_is_repeated_often_takes_no_more_memory():
    uniform = Draws(50_000, 10, seed=0)
    uniform([0])
    tracemalloc.start()
    try:
        rows = uniform([n * 50_000 for n in range(1, 101)])
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(np.unique(rows)) == 1000
    assert most < 2**20  # those of the split take 4 MB


def test_noise_is_standard_normal_and_every_key_has_its_own():
    keys = torch.tensor([0, 1, 2, 2**KEY_BITS - 1, 1 << 40])
    noise = gaussian(keys, 101 * 301)  # an odd number of pixels
    assert noise.shape == (5, 30401)
    assert noise.mean(1).abs().max() < 0.03
    assert (noise.std(1) - 1).abs().max() < 0.02
    assert ((noise.abs() < 1).double().mean(1) - 0.6827).abs().max() < 0.01
    assert (noise.abs().amax(1) < 7).all()
    together = torch.corrcoef(torch.cat((noise, noise.roll(1, dims=1))))
    assert (together - torch.eye(10)).abs().max() < 0.03  # neither with another key, nor with the pixel beside
    assert torch.equal(gaussian(keys[3:4], 30401), noise[3:4])


def test_keys_of_like_hashes_do_not_share_their_noise_in_another_order():
    keys = torch.from_numpy(np.random.default_rng(0).integers(2**31, size=3000))
    hashes, order = draws._mixed(torch.zeros(3000, dtype=torch.int32), keys.int()).sort()
    apart = hashes[1:] ^ hashes[:-1]
    nearest = int(torch.where(apart >= 0, apart, 2**31 - 1).argmin())
    assert apart[nearest] < 2**14
    one, other = gaussian(keys[order[nearest : nearest + 2]], 2**15).sort().values
    assert (one - other).abs().max() > 0.01


def test_the_hash_is_of_32_bits_whatever_the_word():
    words = torch.tensor([0, 1, -1, -0x21524111, 2**31 - 1], dtype=torch.int32)
    expected = [int(word) & 0xFFFFFFFF for word in words]
    for shift, factor, other in (
        (16, 0x21F0AAAD, 7),
        (15, 0x735A2D97, 0),
        (15, 1, 0),
    ):  # Python's numbers never overflow
        expected = [((word ^ word >> shift) * factor & 0xFFFFFFFF) ^ other for word in expected]
    mixed = draws._mixed(words, torch.full_like(words, 7)).tolist()
    assert [word & 0xFFFFFFFF for word in mixed] == expected


# Pool


def samples(sizes, channels=None, dtype=np.int16):
    form = (lambda h, w: (h, w)) if channels is None else (lambda h, w: (channels, h, w))
    return [
        {
            "image": RANDOM.integers(-900, 900, form(*size)).astype(dtype),
            "target": RANDOM.integers(0, 3, size).astype(np.uint8),
        }
        for size in sizes
    ]


def formats(channels=1):
    return {"image": (channels, np.int16), "target": (1, np.uint8)}


SIZES = [(40, 48), (44, 40), (20, 70), (64, 64)]


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("piece", [1, 12_000, 64 * 2**20])  # one sample, some, all at a time
def test_a_pool_that_is_read_in_pieces_is_that_of_the_samples(monkeypatch, channels, piece):
    monkeypatch.setattr(pool, "PIECE", piece)
    stored = samples(SIZES, channels)
    together, read = pool_of(stored), load(stored.__getitem__, SIZES, formats(channels or 1), CPU)
    for name in ("image", "target"):
        assert torch.equal(read.parts[name], together.parts[name])
        assert read.channels(name) == (channels if channels and name == "image" else 1)
    assert read.parts["image"].dtype == torch.int16
    for number, sample in enumerate(stored):
        pixels = sample["target"].size
        begin = int(read.offsets[number])
        assert np.array_equal(read.parts["target"][begin : begin + pixels], sample["target"].reshape(-1))


def test_a_pool_elsewhere_is_filled_through_buffers_of_the_host(monkeypatch):
    monkeypatch.setattr(pool, "PIECE", 12_000)
    stored, copied = samples(SIZES), []
    monkeypatch.setattr(torch.Tensor, "copy_", lambda _, source: copied.append(source.clone()))
    elsewhere = load(stored.__getitem__, SIZES, formats(), torch.device("meta"))
    assert elsewhere.device.type == "meta"
    assert len(copied) > 2
    images = [values for values in copied if values.dtype == torch.int16]
    assert torch.equal(torch.cat(images), pool_of(stored).parts["image"])


def test_what_cannot_be_read_is_raised():
    stored = samples(SIZES)

    def read(number):
        if number == 2:
            raise ValueError("damaged")
        return stored[number]

    with pytest.raises(ValueError, match="damaged"):
        load(read, SIZES, formats(), CPU)


# Moves


def reference(image, corner, size, flips, turns):
    """Crop, pad, flip and turn one image (H, W) with numpy."""
    wide = np.pad(image, 100)
    top, left = corner[0] + 100, corner[1] + 100
    image = wide[top : top + size[0], left : left + size[1]]
    for axis in (0, 1):
        image = np.flip(image, axis) if flips[axis] else image
    return np.rot90(image, turns)


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("side", [32, 64, 96])  # crops smaller and larger than the samples, and both in a batch
def test_moves_crop_pad_flip_and_turn_as_numpy_does(side, channels):
    stored = samples(SIZES, channels)
    together = pool_of(stored)
    size = (side, side)
    places = np.tile(np.arange(4), 32)
    flips = np.stack(np.meshgrid([0, 1], [0, 1], np.arange(4), np.zeros(2), indexing="ij"), -1).reshape(-1, 4)
    flips, turns = np.repeat(flips[:, :2].astype(bool), 4, axis=0), np.repeat(flips[:, 2].astype(int), 4)
    lengths = np.array(SIZES)[places]
    spare = lengths - side
    corners = np.where(spare < 0, -(-spare // 2), RANDOM.integers(0, np.maximum(spare, 0) + 1))
    moves = exact_moves(*lengths.T, corners, size, flips, turns)
    assert moves.padded  # one of the samples has 20 rows
    inside = torch.from_numpy(moves.inside)
    copied, looked_up = (
        {name: filled(part, inside, 0) for name, part in take(together, places[:, None], moves).items()}
        for take in (moved, _looked_up)
    )
    for name in ("image", "target"):
        assert torch.equal(copied[name], looked_up[name])
        assert copied[name].dtype == together.parts[name].dtype
    for n, place in enumerate(places):
        for name, values in stored[place].items():
            for channel, plane in zip(copied[name][n], values.reshape(-1, *values.shape[-2:]), strict=True):
                assert np.array_equal(channel, reference(plane, corners[n], size, flips[n], turns[n]))


def test_a_whole_sample_is_padded_to_a_size_that_is_not_square():
    stored = samples([(40, 48), (40, 48)])
    lengths = np.array([(40, 48), (40, 48)])
    moves = exact_moves(*lengths.T, np.array([(-12, -24)] * 2), (64, 96))
    out = filled(moved(pool_of(stored), np.array([1, 0]), moves)["image"], torch.from_numpy(moves.inside), -7)
    for image, sample in zip(out, (stored[1], stored[0]), strict=True):
        assert np.array_equal(image[0], np.pad(sample["image"], ((12, 12), (24, 24)), constant_values=-7))


# Warps


def random_warps(count, side):
    angles, scales = RANDOM.uniform(-0.26, 0.26, count), RANDOM.uniform(0.9, 1.1, (count, 2))
    return angles, scales, RANDOM.uniform(-side / 16, side / 16, (count, 2))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_warp_is_monais(mode):
    side = 64
    angles, scales, shifts = random_warps(6, side)
    image = torch.nn.functional.interpolate(torch.rand(6, 2, 8, 8), size=(side, side), mode="bilinear")
    matrices = torch.from_numpy(affine_matrices(angles, scales, shifts))
    ours = warped(image, warp_grid(matrices, (side, side)), mode)
    for n in range(6):
        theirs = Affine(
            float(angles[n]),
            translate_params=shifts[n].tolist(),
            scale_params=scales[n].tolist(),
            mode=mode,
            padding_mode="reflection",
            image_only=True,
        )(image[n])
        close = (ours[n] - theirs.as_tensor()).abs() < 1e-4
        assert close.float().mean() > (0.999 if mode == "nearest" else 0.99999)  # 0.5 is rounded up or down
    theta = matrices.view(-1, 2, 3) * torch.tensor([1, 1, 2 / side])  # of coordinates from -1 to 1
    layer = AffineTransform(normalized=True, mode=mode, padding_mode="reflection", align_corners=False)
    close = (ours - layer(image.double(), theta)).abs() < 1e-4
    assert close.float().mean() > (0.999 if mode == "nearest" else 0.99999)


def test_a_warp_without_change_changes_nothing():
    image = torch.rand(2, 1, 33, 32)
    still = torch.from_numpy(affine_matrices(np.zeros(2), np.ones((2, 2)), np.zeros((2, 2))))
    grid = warp_grid(still, (33, 32))
    torch.testing.assert_close(warped(image, grid, "bilinear"), image, atol=1e-5, rtol=0)
    assert torch.equal(warped(image, grid, "nearest"), image)


# Changes


def test_only_the_chosen_change():
    image = torch.rand(5, 2, 8, 8)
    before = image.clone()
    where, amount = np.array([0, 1, 0, 0, 1], bool), np.arange(5.0)
    table = torch.from_numpy(chosen(where, amount, np.ones((5, 2))))
    assert table.tolist() == [[1, 1, 1, 1], [4, 4, 1, 1]]
    changed((image,), table, lambda samples, values: (samples + values[:, :1, None, None].float(),))
    assert torch.equal(image[[0, 2, 3]], before[[0, 2, 3]])
    assert torch.equal(image[[1, 4]], before[[1, 4]] + torch.tensor([1.0, 4.0])[:, None, None, None])


def test_contrast_is_monais_for_each_sample():
    image, gamma = torch.randn(3, 1, 16, 16), [0.7, 1.0, 1.5]
    (ours,) = adjust_contrast(image, torch.tensor(gamma, dtype=torch.float64)[:, None])
    for n in range(3):
        torch.testing.assert_close(ours[n], AdjustContrast(gamma[n])(image[n]).as_tensor(), atol=2e-6, rtol=0)
    constant = torch.full((1, 1, 4, 4), -1.0)
    assert torch.equal(*adjust_contrast(constant, torch.ones(1, 1, dtype=torch.float64)), constant)


def test_scale_shift_and_noise():
    image = torch.ones(2, 1, 4, 4)
    values = torch.tensor([[2.0, 0.5], [1.0, 0.0]], dtype=torch.float64)
    assert scale_and_shift(image, values)[0].unique(dim=0).tolist() == [[[[1.0] * 4] * 4], [[[2.5] * 4] * 4]]
    (noisy,) = add_noise(torch.zeros(2, 1, 64, 64), torch.tensor([[0.5, 7], [2.0, 8]], dtype=torch.float64))
    assert noisy.std((1, 2, 3)).tolist() == pytest.approx([0.5, 2], rel=0.05)
    torch.testing.assert_close(noisy[1].flatten(), 2 * gaussian(torch.tensor([8]), 64 * 64)[0].float())


# Never waits


def test_nothing_asks_the_device_for_a_value():
    """On the meta device there are no values: asking for one raises."""
    stored = samples([(64, 64)] * 4)
    elsewhere = pool_of(stored).to(torch.device("meta"))
    corners = np.array([(-8, 4), (0, 0), (3, 3), (1, 1)])
    moves = exact_moves(elsewhere.heights, elsewhere.widths, corners, (32, 32), turns=np.arange(4))
    parts = moved(elsewhere, np.arange(4), moves)
    image = filled(parts["image"], torch.from_numpy(moves.inside).to("meta"), 0).float()
    table = torch.from_numpy(chosen(np.arange(4) > 1, affine_matrices(*random_warps(4, 32)))).to("meta")
    changed((image, parts["target"]), table, warp)
    for change, columns in ((adjust_contrast, 2), (scale_and_shift, 3), (add_noise, 3)):
        changed((image,), table[:, :columns], change)
    assert image.shape == (4, 1, 32, 32)
