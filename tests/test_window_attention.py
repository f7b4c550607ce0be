"""SwinV2's windows: who attends to whom, with what bias, and where a block puts it back."""

import math

import pytest
import torch
from torch import nn

from networks.swinv2 import SwinBlock, WindowAttention, _shift_mask


def test_shifted_windows_attend_only_where_the_map_is_connected():
    mask = _shift_mask(side=4, window=2, shift=1)
    inf = math.inf
    assert torch.equal(mask[0], torch.zeros(4, 4))  # rows 1-2, columns 1-2 of the map
    # columns 3 and 0 side by side: tokens (row, column) 1,3  1,0  2,3  2,0
    assert torch.equal(mask[1], -torch.tensor([[0, inf, 0, inf], [inf, 0, inf, 0]] * 2))
    # rows 3 and 0, columns 1-2
    assert torch.equal(mask[2], -torch.tensor([[0, 0, inf, inf]] * 2 + [[inf, inf, 0, 0]] * 2))
    assert torch.equal(mask[3], -torch.full((4, 4), inf).fill_diagonal_(0))  # the four corners


def test_offsets_within_a_window_are_logarithmic_and_paired_by_hand():
    attention = WindowAttention(4, heads=2, window=2)
    far = math.log2(9) / 3
    assert attention.offsets.tolist()[0] == pytest.approx([-far, -far])
    assert attention.offsets.tolist()[5] == pytest.approx([0, far])
    # tokens (0,0) (0,1) (1,0) (1,1): token 0 is (-1, -1) from token 3, the first of nine offsets
    assert attention.pairs[0, 3] == 0
    assert attention.pairs[3, 0] == 8
    assert attention.pairs[1, 0] == 5  # (0, +1)
    assert attention.pairs.diagonal().tolist() == [4, 4, 4, 4]


def test_window_attention_is_a_softmax_of_scaled_cosines_and_bias():
    torch.manual_seed(0)
    attention = WindowAttention(4, heads=1, window=1)
    attention.proj = nn.Identity()
    attention.qkv.weight.data = torch.cat([torch.eye(4)] * 3)
    # One token a window: whatever the similarity, the answer is its value, with its bias.
    attention.v_bias.data.fill_(0.5)
    tokens = torch.randn(3, 1, 4)
    torch.testing.assert_close(attention(tokens, None), tokens + 0.5)

    attention = WindowAttention(2, heads=1, window=2)
    attention.proj = nn.Identity()
    attention.qkv.weight.data = torch.cat([torch.eye(2)] * 3)
    attention.cpb_mlp[2].weight.data.zero_()  # the bias is 16 * sigmoid(0) = 8 everywhere: no effect on the softmax
    attention.logit_scale.data.fill_(9.0)  # exp(9) is held at 100
    tokens = torch.tensor([[[3.0, 0.0], [0.0, 5.0], [1.0, 1.0], [1.98, 0.2821]]])
    # cosines of the first token: 1, 0, 0.71, 0.99; at scale 100 it keeps 1 / (1 + 1/e) = 0.7311 and the last 0.2689:
    # (0.7311 * 3 + 0.2689 * 1.98, 0.2689 * 0.2821)
    torch.testing.assert_close(attention(tokens, None)[0, 0], torch.tensor([2.7257, 0.0759]), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("shift", "reached"),
    [
        (0, [(0, 0), (0, 1), (1, 0), (1, 1)]),
        (1, [(0, 0)]),  # the corner's window holds all four corners, which are no neighbors
    ],
)
def test_a_swin_block_mixes_one_window_and_puts_it_back(shift, reached):
    torch.manual_seed(0)
    block = SwinBlock(4, heads=1, side=4, window=2, shift=shift, drop_probability=0.0)
    nn.init.ones_(block.norm1.weight)
    feature = torch.randn(1, 4, 4, 4)
    changed = feature.clone()
    changed[0, 0, 0] += torch.tensor([1.0, -1.0, 2.0, 0.0])
    with torch.no_grad():
        moved = (block(changed) - block(feature)).abs().amax(dim=3)[0] > 1e-6
    assert moved.nonzero().tolist() == [list(place) for place in reached]
