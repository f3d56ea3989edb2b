"""The trunk is PyTorch's own encoder on tokens end to end, and shortcuts change nothing."""

import pytest
import torch
from torch import nn

from scduet.transformers.encoder.trunk import Packing, Trunk, TrunkConfig, attend_by_cell, attend_padded


def _case(seed=0, width=24):
    torch.manual_seed(seed)
    lengths = torch.tensor([17, 1, 30, 8, 30])
    padding = torch.arange(30)[None] >= lengths[:, None]
    return torch.randn(5, 30, width), padding


@pytest.mark.parametrize("final_norm", [False, True])
def test_equal_to_the_encoder_of_torch(final_norm):
    x, padding = _case()
    layer = nn.TransformerEncoderLayer(24, 4, 40, 0.1, batch_first=True)
    norm = nn.LayerNorm(24) if final_norm else None
    reference = nn.TransformerEncoder(layer, 3, norm=norm, enable_nested_tensor=False).eval()
    for p in reference.parameters():
        nn.init.normal_(p, 0, 0.3)
    trunk = Trunk(TrunkConfig(24, 3, 4, 40, norm_eps=1e-5, final_norm=final_norm)).eval()
    pairs = {"self_attn.in_proj_": "qkv.", "self_attn.out_proj": "project", "linear1": "expand", "linear2": "contract",
             "norm1": "norm_1", "norm2": "norm_2", "layers": "blocks"}  # fmt: skip
    weights = {}
    for name, weight in reference.state_dict().items():
        for old, new in pairs.items():
            name = name.replace(old, new)
        weights[name] = weight
    trunk.load_state_dict(weights)
    packing = Packing.of(padding)
    with torch.no_grad():
        ours = trunk(packing.pack(x), packing)
        torch.testing.assert_close(ours, reference(x, src_key_padding_mask=padding)[~padding], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("one_each", [False, True])
def test_both_ways_to_attend_are_equal_in_values_and_gradients(one_each):
    _, padding = _case()
    packing, n = Packing.of(padding), int((~padding).sum())
    q, k, v = (torch.randn(5 if one_each and i == 0 else n, 4, 6, requires_grad=True) for i in range(3))
    results = []
    for attend in (attend_by_cell, attend_padded):
        out = attend(q, k, v, packing)
        results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_attention_is_its_formula():
    padding = torch.zeros(1, 5, dtype=torch.bool)
    q, k, v = (torch.randn(5, 2, 3) for _ in range(3))
    out = attend_by_cell(q, k, v, Packing.of(padding))
    weights = (torch.einsum("qhd,khd->hqk", q, k) / 3**0.5).softmax(-1)
    torch.testing.assert_close(out, torch.einsum("hqk,khd->qhd", weights, v))


@pytest.mark.parametrize("depth", [0, 1, 3, None])
def test_asking_for_the_first_token_only_gives_its_state(depth):
    x, padding = _case()
    packing, trunk = Packing.of(padding), Trunk(TrunkConfig(24, 3, 4, 40)).eval()
    with torch.no_grad():
        every = trunk(packing.pack(x), packing, depth)
        first = trunk(packing.pack(x), packing, depth, first_only=True)
    torch.testing.assert_close(first, every[packing.starts], atol=1e-6, rtol=1e-6)


def test_packing_there_and_back():
    x, padding = _case()
    packing = Packing.of(padding)
    torch.testing.assert_close(packing.unpack(packing.pack(x)), x * ~padding[..., None])


def test_every_weight_gets_a_gradient():
    x, padding = _case()
    packing, trunk = Packing.of(padding), Trunk(TrunkConfig(24, 2, 4, 40, final_norm=True))
    trunk(packing.pack(x), packing).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.parameters())
