"""Training by transformers: Trainer, its resume, its loss over uneven batches, gradient checkpointing."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from tests.compat.subject import Subject, close, require, same

STEPS = 4


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    """Quiet settings for a few steps on the CPU."""
    quiet = {"report_to": [], "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True, "save_strategy": "no"}
    sizes = {"per_device_train_batch_size": 2, "max_steps": STEPS, "learning_rate": 1e-2}
    return TrainingArguments(str(folder), **{**quiet, **sizes, **options})


def rows(ids: Tensor) -> list[dict[str, Tensor]]:
    """Examples whose numbers of learned tokens differ, from ids [B, T]."""
    starts = [1 + 2 * i for i in range(len(ids))]
    labels = [row.masked_fill(torch.arange(len(row)) < start, -100) for row, start in zip(ids, starts, strict=True)]
    return [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]


def trainer_resume(subject: Subject) -> str:
    """Four steps equal two, a checkpoint, and two more from it, bit for bit; the loss in evaluation is the model's."""
    data = rows(torch.cat([subject.ids(), subject.ids().flip(1)]))
    settings = arguments(subject.scratch / "trainer", save_strategy="steps", save_steps=STEPS // 2)
    whole = Trainer(subject.model(torch.float32), settings, train_dataset=data)
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    whole.train()
    resumed = Trainer(subject.model(torch.float32), settings, train_dataset=data)
    resumed.train(resume_from_checkpoint=str(subject.scratch / "trainer" / f"checkpoint-{STEPS // 2}"))
    moved = 0
    for name, value in whole.model.state_dict().items():
        same(resumed.model.state_dict()[name], value, name)
        moved += not torch.equal(value, before[name])
    require(moved == len(before), f"only {moved} of {len(before)} tensors were trained")
    with torch.no_grad():
        single = [whole.model.eval()(**{k: v.unsqueeze(0) for k, v in row.items()}).loss for row in data[:1]]
    evaluated = whole.evaluate(data[:1])["eval_loss"]
    close(torch.tensor(evaluated), single[0], 1e-5, "loss in evaluation")
    return f"{moved} tensors equal after {STEPS} steps"


def uneven_accumulation(subject: Subject) -> str:
    """Accumulated steps weigh every token alike, however many of a batch are learned (num_items_in_batch)."""
    data = rows(subject.ids()[:2])
    rate = 0.1
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 1, "optim": "sgd"}
    options |= {"learning_rate": rate, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    settings = arguments(subject.scratch / "trainer", **options)
    model = subject.model()
    batch = {key: torch.stack([row[key] for row in data]) for key in ("input_ids", "labels")}
    logits = model.train()(batch["input_ids"], use_cache=False).logits[:, :-1]
    F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten()).backward()  # a mean over all tokens
    expected = {name: value.detach() - rate * value.grad for name, value in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    Trainer(model, settings, train_dataset=data).train()
    # Trainer takes the loss in fp32 whatever the model's precision: rounding alone is up to 5e-6 on a trained model.
    error = max(close(value, expected[name], 1e-5, name) for name, value in model.named_parameters())
    counts = [int((row["labels"] != -100).sum()) for row in data]
    return f"{counts} learned tokens; weights differ by {error:.0e} from one step on both"


def checkpointed_gradients(subject: Subject) -> str:
    """Gradient checkpointing runs every block twice and changes no gradient."""
    model, ids = subject.model(), subject.ids()
    model.train()(ids, labels=ids).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    error = 0.0
    for reentrant in (True, False):
        model.zero_grad(set_to_none=True)
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        calls: list[object] = []
        hook = model.model.layers[0].mixer.register_forward_hook(lambda *_, calls=calls: calls.append(None))
        model(ids, labels=ids).loss.backward()
        hook.remove()
        require(len(calls) == 2, f"a block ran {len(calls)} times")
        for name, parameter in model.named_parameters():
            error = max(error, close(parameter.grad, expected[name], 1e-10, f"gradient of {name}"))
    return f"gradients differ by {error:.0e}"
