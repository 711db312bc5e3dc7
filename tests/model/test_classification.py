"""Heads for whole texts and for tokens: one result for the last real token, on whichever side padding is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification
from trl import RewardConfig, RewardTrainer

from sioconv.model import SioConvConfig, SioConvForSequenceClassification, SioConvForTokenClassification

PAD = 0


@pytest.fixture
def config(options: dict[str, object]) -> SioConvConfig:
    sizes = {"hidden_size": 12, "num_heads": 3, "num_hidden_layers": 2, "intermediate_size": 20, "vocab_size": 40}
    return SioConvConfig(**{**sizes, **options}, pad_token_id=PAD, num_labels=4)


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD, padding_side=side)
    return ids, (ids != PAD).long()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_text_gets_the_result_of_its_last_token(config: SioConvConfig, side: str) -> None:
    torch.manual_seed(0)
    model = SioConvForSequenceClassification(config).eval()
    rows = [torch.randint(1, 40, (length,)) for length in (5, 9, 2)]
    ids, mask = padded(rows, side)
    labels = torch.tensor([0, 3, 1])
    with torch.no_grad():
        found = model(ids, attention_mask=mask, labels=labels)
        alone = torch.cat([model(row[None]).logits for row in rows])
        hidden = torch.stack([model.model(row[None]).last_hidden_state[0, -1] for row in rows])
    torch.testing.assert_close(found.logits, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.logits, hidden @ model.score.weight.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.loss, torch.nn.functional.cross_entropy(alone, labels), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_token_gets_a_result(config: SioConvConfig, side: str) -> None:
    torch.manual_seed(0)
    model = SioConvForTokenClassification(config).eval()
    rows = [torch.randint(1, 40, (length,)) for length in (5, 9)]
    ids, mask = padded(rows, side)
    with torch.no_grad():
        found = model(ids, attention_mask=mask, labels=torch.where(mask.bool(), ids % 4, -100))
        for logits, real, row in zip(found.logits, mask.bool(), rows, strict=True):
            torch.testing.assert_close(logits[real], model(row[None]).logits[0], atol=1e-5, rtol=1e-4)
    real = mask.bool()
    expected = torch.nn.functional.cross_entropy(found.logits[real], ids[real] % 4)
    torch.testing.assert_close(found.loss, expected)


def test_the_auto_classes_put_a_head_on_a_language_model(tiny_model_folder: Path, tmp_path: Path) -> None:
    for auto, kind in (
        (AutoModelForSequenceClassification, SioConvForSequenceClassification),
        (AutoModelForTokenClassification, SioConvForTokenClassification),
    ):
        model, report = auto.from_pretrained(tiny_model_folder, num_labels=3, output_loading_info=True)
        assert type(model) is kind and model.score.out_features == 3
        assert {name.split(".")[0] for name in report["missing_keys"]} == {"score"}
        model.save_pretrained(tmp_path)
        again = auto.from_pretrained(tmp_path)
        ids = torch.tensor([[1, 20, 30]])
        assert torch.equal(again.eval()(ids).logits, model.eval()(ids).logits)


def test_a_reward_model_learns(
    tiny_model_folder: Path, tiny_model: tuple[torch.nn.Module, Callable[..., object]], tmp_path: Path
) -> None:
    """One step of TRL's trainer on a pair of answers changes the head and the model."""
    pair = {
        "prompt": [{"role": "user", "content": "宮城県の県庁は？"}],
        "chosen": [{"role": "assistant", "content": "仙台市です。"}],
        "rejected": [{"role": "assistant", "content": "The sea."}],
    }
    settings = {"max_steps": 1, "use_cpu": True, "report_to": [], "bf16": False, "save_strategy": "no"}
    trainer = RewardTrainer(
        str(tiny_model_folder),
        args=RewardConfig(str(tmp_path), **settings),
        processing_class=tiny_model[1],
        train_dataset=Dataset.from_list([pair] * 2),
    )
    assert type(trainer.model) is SioConvForSequenceClassification and trainer.model.num_labels == 1
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert "score.weight" in changed and "model.layers.0.mixer.z_proj.weight" in changed
