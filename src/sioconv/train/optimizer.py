"""AdamW, or Muon for the matrices of the blocks, with decay on matrices only; and the learning rate's schedules."""

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sioconv.train.config import TrainConfig

MUON_MOMENTUM = 0.95


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """The optimizers of a stage, which together step every trainable parameter once.

    The weights of linear layers and LSTMs decay, everything else doesn't: embeddings, norms, biases, forget-gate rates,
    convolutions and initial states are not matrices that a product shrinks or grows.

    `adamw` is AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), fused into one kernel. `muon` gives those matrices,
    the output head's excepted, to Muon (Jordan et al. 2024), whose step is scaled to the size of AdamW's (Liu et al.
    2025, arXiv:2502.16982), so that both go with the same learning rate. A tensor that holds several matrices, as an
    LSTM's of its four gates does, is one matrix to it.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = {id(weight) for weight in product_weights(model)} - embeddings
    find_head = getattr(model, "get_output_embeddings", None)
    head = find_head() if find_head is not None else None
    hidden = matrices - {id(getattr(head, "weight", None))} if config.optimizer == "muon" else set()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decays = [each for each in parameters if id(each) in matrices - hidden]
    others = [each for each in parameters if id(each) not in matrices]
    groups = [{"params": decays, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )
    optimizers: list[Optimizer] = [adamw]
    if orthogonal := [each for each in parameters if id(each) in hidden]:
        muon = torch.optim.Muon(
            orthogonal,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=MUON_MOMENTUM,
            adjust_lr_fn="match_rms_adamw",
        )
        optimizers.append(muon)
    return optimizers


def product_weights(model: nn.Module) -> list[Tensor]:
    """The weights [out, in] of matrix products: of linear layers, the head included, and of LSTMs."""
    modules = list(model.modules())
    linear: list[Tensor] = [module.weight for module in modules if isinstance(module, nn.Linear)]
    recurrent = [module for module in modules if isinstance(module, nn.LSTM)]
    return linear + [
        weight for module in recurrent for name, weight in module.named_parameters() if name.startswith("weight")
    ]


def steps_before_fall(steps: int, config: TrainConfig) -> int:
    """How many of `steps` steps the fall of `wsd`'s learning rate doesn't touch; 0 for `cosine`, which falls early."""
    if config.schedule == "cosine":
        return 0
    decay = config.decay * steps
    return min(steps, math.floor(steps - decay) + 1) if decay >= 1 else steps


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Learning rate of step `step` of `steps`: a linear warm-up, then what `config.schedule` names.

    `wsd` stays and then falls linearly to 0 (Hu et al. 2024, arXiv:2404.06395); `cosine` falls to 0 as half a cosine
    from the end of the warm-up (Loshchilov & Hutter 2017, arXiv:1608.03983). It is a function of the step alone: there
    is nothing to save or restore.
    """
    warmup, decay = config.warmup * steps, config.decay * steps
    rise = (step + 1) / warmup if warmup >= 1 else 1.0
    if config.schedule == "cosine":
        done = max(0.0, step - warmup) / max(1.0, steps - warmup)  # [0, 1)
        fall = (1 + math.cos(math.pi * done)) / 2
    else:
        fall = (steps - step) / decay if decay >= 1 else 1.0
    return config.lr * min(1.0, rise, fall)
