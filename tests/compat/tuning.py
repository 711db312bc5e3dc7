"""Further training by TRL and PEFT."""

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from sioconv.data.chat import encode_batch
from tests.compat.subject import CHATS, Subject, close, continuation, require, same

# What docs/tools.md names; "all-linear" adds dt_proj, which makes the forget gates.
LORA_TARGETS = ["z_proj", "z_gate_proj", "y_proj", "y_gate_proj", "up_proj", "gate_proj", "down_proj"]
STEPS = 4


def settings(kind: Any, folder: Path, **options: Any) -> Any:
    """Quiet settings for a few steps on the CPU; the rest as TRL has it: bf16 and gradient checkpointing."""
    quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "logging_steps": 1}
    sizes = {"per_device_train_batch_size": 3, "max_steps": STEPS, "learning_rate": 1e-2}
    chosen = kind(str(folder), **{**quiet, **sizes, **options})
    require(chosen.bf16 == options.get("bf16", True) and chosen.gradient_checkpointing, "TRL's defaults have changed")
    return chosen


def conversations() -> Dataset:
    """The conversations as TRL reads them."""
    return Dataset.from_list([{"messages": chat} for chat in CHATS])


def losses(trainer: Any) -> list[float]:
    """The loss logged after each step."""
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def summed_loss(model: Any, ids: list[int], mask: list[int]) -> Tensor:
    """Cross-entropy in nats over the tokens of one document that are learned."""
    row = torch.tensor([ids])
    targets = row.masked_fill(torch.tensor([mask]) == 0, -100)[:, 1:]
    logits = model(row, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def first_loss(trainer: Any, model: Any) -> tuple[dict[str, Tensor], Tensor]:
    """The first batch and its loss as the trainer computes it, in training mode."""
    [batch] = trainer.get_train_dataloader()
    shown = dict(batch)
    return shown, trainer.compute_loss(model.train(), batch)


def assistant_only(subject: Subject) -> str:
    """SFTTrainer learns what the assistant says, by our mask and with our loss; with its defaults the loss falls."""
    tokenizer, model = subject.tokenizer(), subject.model(torch.float32)
    exact = settings(SFTConfig, subject.scratch / "exact", assistant_only_loss=True, bf16=False)
    trainer = SFTTrainer(model, exact, train_dataset=conversations(), processing_class=tokenizer)
    encoded = encode_batch(tokenizer, CHATS)
    batch, loss = first_loss(trainer, model)
    found = []
    for ids, labels, real in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True):
        require(torch.equal(labels[labels != -100], ids[labels != -100]), "a label isn't the token at its place")
        found.append((ids[real].tolist(), (labels[real] != -100).long().tolist()))
    require(sorted(found) == sorted(encoded), "ids or mask are not those of sioconv.data.chat")
    learned = sum(sum(mask) for _, mask in encoded)
    with torch.no_grad():
        own = sum(summed_loss(model, ids, mask) for ids, mask in encoded) / learned
    error = close(loss, own, 1e-5, "loss")  # type: ignore[arg-type]
    trainer = SFTTrainer(
        str(subject.folder),
        settings(SFTConfig, subject.scratch / "sft", assistant_only_loss=True),
        train_dataset=conversations(),
        processing_class=tokenizer,
    )
    trainer.train()
    course = losses(trainer)
    require(len(course) == STEPS and course[-1] < 0.95 * course[0], f"losses {course}")
    return f"{learned} learned tokens; loss differs by {error:.0e}; in bf16 {course[0]:.2f} to {course[-1]:.2f}"


def packing(subject: Subject) -> str:
    """SFTTrainer packs conversations into one row (bfd): loss and gradients equal those of each read alone."""
    tokenizer, model = subject.tokenizer(), subject.model(torch.float32)
    encoded = [ids for ids, _ in encode_batch(tokenizer, CHATS)]
    options = {"packing": True, "packing_strategy": "bfd", "max_length": sum(map(len, encoded))}
    exact = settings(SFTConfig, subject.scratch / "exact", bf16=False, **options)
    trainer = SFTTrainer(model, exact, train_dataset=conversations(), processing_class=tokenizer)
    batch, loss = first_loss(trainer, model)
    starts = int((batch["position_ids"] == 0).sum())
    require(batch["input_ids"].shape[0] == 1 and starts == len(CHATS), "the conversations aren't packed into one row")
    require("attention_mask" not in batch, "TRL gives a mask now: read it")
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    own = sum(summed_loss(model, ids, [0] + [1] * (len(ids) - 1)) for ids in encoded)
    own = own / sum(len(ids) - 1 for ids in encoded)
    own.backward()  # type: ignore[union-attr]
    error = close(loss, own, 1e-5, "loss")  # type: ignore[arg-type]
    steep = max(close(found[name], value.grad, 1e-3, f"gradient of {name}") for name, value in model.named_parameters())
    trainer = SFTTrainer(
        subject.model(torch.float32),
        settings(SFTConfig, subject.scratch / "sft", **options),
        train_dataset=conversations(),
        processing_class=tokenizer,
    )
    trainer.train()
    course = losses(trainer)
    require(course[-1] < 0.95 * course[0], f"losses {course}")
    return f"{starts} in a row: loss differs by {error:.0e}, gradients by {steep:.0e}; in bf16 the loss falls"


def preferences(subject: Subject) -> str:
    """DPOTrainer: ln 2 at the start, where the model is its own reference, then less."""
    pairs = [
        {"prompt": chat[:-1], "chosen": chat[-1:], "rejected": [{"role": "assistant", "content": "いいえ。No."}]}
        for chat in CHATS
    ]
    trainer = DPOTrainer(
        subject.model(torch.float32),
        args=settings(DPOConfig, subject.scratch / "dpo", learning_rate=1e-3),
        train_dataset=Dataset.from_list(pairs),
        processing_class=subject.tokenizer(),
    )
    trainer.train()
    course = losses(trainer)
    require(abs(course[0] - math.log(2)) < 0.02, f"the first loss is {course[0]}, expected ln 2")
    require(len(course) == STEPS and course[-1] < course[0] - 0.02, f"losses {course}")
    margin = [line["rewards/margins"] for line in trainer.state.log_history if "rewards/margins" in line]
    require(margin[-1] > 0, f"the chosen answers gained nothing: {margin}")
    return f"loss {course[0]:.3f} to {course[-1]:.3f}"


def lora(subject: Subject) -> str:
    """LoRA adapters: they alone learn, each of them; saved, loaded and merged they give the same logits."""
    for targets in (LORA_TARGETS, "all-linear"):
        torch.manual_seed(0)
        ids, model = subject.ids(), subject.model()
        before = model(ids).logits.detach()
        chosen = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
        adapted: Any = get_peft_model(model, chosen)
        close(adapted(ids).logits, before, 1e-10, "logits with fresh adapters")
        optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
        frozen = {name: p.detach().clone() for name, p in adapted.named_parameters() if not p.requires_grad}
        course = []
        for _ in range(STEPS):
            loss = adapted(ids, labels=ids, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            course.append(loss.item())
        require(course[-1] < course[0], f"losses {course}")
        for name, parameter in adapted.named_parameters():
            if name in frozen:
                same(parameter, frozen[name], f"{name}, which is frozen,")
            else:
                require(parameter.grad.any(), f"{name} learns nothing")
        with torch.no_grad():
            after = adapted(ids).logits
            require(not torch.allclose(after, before, rtol=1e-3), "the adapters change nothing")
            adapted.save_pretrained(subject.scratch / "adapter")
            loaded: Any = PeftModel.from_pretrained(subject.model(), subject.scratch / "adapter").eval()
            close(loaded(ids).logits, after, 1e-6, "a saved adapter")
            text = continuation(adapted, ids)
            merged = adapted.merge_and_unload()
            error = close(merged(ids).logits, after, 1e-10, "merged")
            same(continuation(merged, ids), text, "text")
            merged.save_pretrained(subject.scratch / "merged")
            folder: Any = AutoModelForCausalLM.from_pretrained(subject.scratch / "merged").eval()
            close(folder(ids).logits, after, 1e-6, "the merged folder")
    count = sum(parameter.numel() for name, parameter in loaded.named_parameters() if "lora_" in name)
    return f"merged logits differ by {error:.0e}; {count} weights with all-linear"
