"""LoRA: its formula, that it starts at nothing, what learns, and how little that is in models of published sizes."""

import pytest
import torch
from named import named

from scduet.errors import OptionError
from scduet.transformers.encoder.lora import LAYERS, add_low_rank
from scduet.transformers.encoder.trunk import Packing, Trunk, TrunkConfig
from scduet.transformers.families import geneformer, scgpt
from scduet.transformers.objectives.finetune import Annotator, Config, choose_trained, trained_share
from scduet.transformers.tokenizers.vocabulary import Vocabulary

SPECIAL = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}
PUBLISHED = {
    "Geneformer V1 10M": geneformer.Config(),
    "Geneformer V2 104M": geneformer.Config(20_275, 4_096, TrunkConfig(768, 12, 12, 3_072, 0.1)),
    "scGPT": scgpt.Config(),
}


def _trunk(rank=3):
    torch.manual_seed(0)
    trunk = Trunk(TrunkConfig(24, 2, 4, 40, 0.0, 1e-5)).eval()
    padding = torch.arange(9)[None] >= torch.tensor([[9], [4], [1]])
    packing = Packing.of(padding)
    x = torch.randn(14, 24)
    before = trunk(x, packing)
    add_low_rank(trunk, rank, alpha=6.0)
    return trunk, x, packing, before


def test_nothing_changes_at_first():
    trunk, x, packing, before = _trunk()
    assert torch.equal(trunk(x, packing), before)


@pytest.mark.parametrize("first_only", [False, True])
def test_equal_to_weights_with_the_product_added(first_only):
    trunk, x, packing, _ = _trunk()
    plain = Trunk(TrunkConfig(24, 2, 4, 40, 0.0, 1e-5)).eval()
    weights = {name: value for name, value in trunk.state_dict().items() if "low_rank" not in name}
    for i, block in enumerate(trunk.blocks):
        for name in LAYERS:
            pair = block.low_rank[name]
            torch.nn.init.normal_(pair.up)
            weights[f"blocks.{i}.{name}.weight"] = weights[f"blocks.{i}.{name}.weight"] + 6 / 3 * pair.up @ pair.down
    plain.load_state_dict(weights)
    torch.testing.assert_close(
        trunk(x, packing, None, first_only), plain(x, packing, None, first_only), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_under_two_percent_of_a_published_model_learn(name):
    config = PUBLISHED[name]
    cls = geneformer.Geneformer if isinstance(config, geneformer.Config) else scgpt.ScGPT
    with torch.device("meta"):
        module = cls(config, Vocabulary({}, "symbol", SPECIAL))
        assert 0 < trained_share(Annotator(module, 20, Config())) < 0.02


def test_what_learns():
    def learners(**options):
        with torch.device("meta"):
            module = geneformer.Geneformer(geneformer.Config(50, 20), Vocabulary({}, "symbol", SPECIAL))
        choose_trained(module, Config(**options))
        return {name for name, weight in module.named_parameters() if weight.requires_grad}, dict(
            module.named_parameters()
        )

    assert learners(tuning="frozen")[0] == set()
    found, every = learners(tuning="full")
    assert found == set(every)
    found, every = learners(tuning="last", n_last_layers=2)
    assert found == {name for name in every if name.startswith(("trunk.blocks.4.", "trunk.blocks.5."))}
    found, every = learners(tuning="lora")
    assert found == {name for name in every if "low_rank" in name}
    assert len(found) == 6 * 2 * 2
    with pytest.raises(OptionError, match=named("n_last_layers", 7, 6)):
        learners(tuning="last", n_last_layers=7)
    with pytest.raises(OptionError, match=named("'rank'", 0)):
        Config(rank=0)
