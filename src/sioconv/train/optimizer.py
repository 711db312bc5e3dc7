"""AdamW with decay on matrices only, and the warm-up–stable–decay schedule."""

import torch
from torch import nn

from sioconv.train.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over two groups: the weights of linear layers decay, everything else doesn't.

    Embeddings, norms, biases, forget-gate rates, convolutions and initial states are not matrices that a product
    shrinks or grows.
    """
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[id(parameter) in matrices - embeddings].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": config.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Learning rate of step `step` of `steps`: linear warm-up, constant, linear decay to 0.

    The schedule is that of Hu et al. 2024 (arXiv:2404.06395). It is a function of the step alone: there is nothing to
    save or restore.
    """
    warmup, decay = config.warmup * steps, config.decay * steps
    rise = (step + 1) / warmup if warmup >= 1 else 1.0
    fall = (steps - step) / decay if decay >= 1 else 1.0
    return config.lr * min(1.0, rise, fall)
