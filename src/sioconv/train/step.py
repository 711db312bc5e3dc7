"""One step of training: gradients of the mean loss over all processes, and the update.

The loss is summed over the tokens that count and divided by their number in all windows of the step, on all processes:
masked conversations, accumulation and uneven shares of tokens don't change what a step is.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from sioconv.data.batches.loader import IGNORED, Batch
from sioconv.data.batches.order import rank_rows
from sioconv.errors import UserError
from sioconv.model.causal_lm import SioConvForCausalLM
from sioconv.model.initial_state import initial_states
from sioconv.ops.linear import fast_products_on
from sioconv.train.carried_state import Carry
from sioconv.train.config import TrainConfig
from sioconv.train.distributed import World, shard
from sioconv.train.loss import token_loss_gradient
from sioconv.train.optimizer import build_optimizers, learning_rate, product_weights

SMALLEST_SCALE, FIRST_SCALE, LARGEST_SCALE, GROWTH_STEPS = 1.0, 2.0**16, 2.0**24, 1000


class TokenLoss(nn.Module):
    """What a step calls: hidden states, and the gradient of the loss with respect to them, in one forward.

    The output head's backward pass runs inside, so that a sharded head is whole while it is used.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: Tensor, targets: Tensor, reset: Tensor, position_ids: Tensor, cache: Any, scale: float
    ) -> tuple[Tensor, Tensor, float]:
        """Inputs [B, T]; returns hidden states [B, T, D], scale · gradient for them, and scale · the summed loss."""
        hidden = self.model.base_model(
            ids, reset=reset, position_ids=position_ids, cache=cache, use_cache=cache is not None
        ).last_hidden_state
        head = cast(nn.Linear, self.model.get_output_embeddings())  # type: ignore[no-untyped-call]
        loss, gradient = token_loss_gradient(hidden, head, targets, scale)
        return hidden, gradient, loss


@dataclass
class LossScale:
    """What fp16's loss is multiplied by, so that small gradients don't vanish; 1 in other precisions.

    It is halved when a gradient overflows, and doubled after 1,000 steps without. torch's GradScaler looks at the
    gradients of its own process only, which shares of a weight's gradient don't allow.

    Attributes:
        moves: whether it changes.
        value: the factor.
        good_steps: steps since it last changed.
    """

    moves: bool = False
    value: float = 1.0
    good_steps: int = 0

    def overflowed(self) -> bool:
        """A gradient was not finite; returns whether a smaller scale may help."""
        self.value, self.good_steps = self.value / 2 if self.moves else self.value, 0
        return self.moves and self.value >= SMALLEST_SCALE

    def went_well(self) -> None:
        """A step was made."""
        self.good_steps += 1
        if self.moves and self.good_steps >= GROWTH_STEPS:
            self.value, self.good_steps = min(LARGEST_SCALE, self.value * 2), 0


class Stepper:
    """A model with its optimizers, ready to be trained step by step.

    The model is any causal one of transformers' form whose `base_model` takes `reset` and `position_ids`, and keeps
    documents apart by either; its blocks are the modules that it names in `_no_split_modules`. With `config.only` all
    weights but the initial states are frozen: neither their gradients nor moments are made.

    Args:
        model: the model; its weights are moved to the device, and shared out where there are several processes.
        config: the stage's settings.
        world: the processes.
        dtype: precision of the matrix products.
        seed: of what a step draws at random, as dropout does.

    Attributes:
        rows: of a step's windows, those that this process computes.
        parameters: how many the model has.
        trained: how many of them are trained.
        base_fingerprint: of the model as it came, where not all of it is trained; else None.

    Raises:
        UserError: the windows can't be shared out to the processes, or the model has no initial state to train.
    """

    def __init__(
        self, model: PreTrainedModel, config: TrainConfig, world: World, dtype: torch.dtype, seed: int = 0
    ) -> None:
        self.model, self.config, self.world, self.dtype, self._seed = model, config, world, dtype, seed
        self.rows, self._micro_batches = rows_and_micro_batches(config, world)
        self.base_fingerprint = _freeze_all_but_initial_states(model) if config.only == "initial_state" else None
        self.parameters = sum(p.numel() for p in model.parameters())
        self.trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        # Utilisation counts 6 operations per token and weight of a matrix, 4 where its gradient isn't computed; the
        # embedding is a look-up.
        self.matrix_parameters = sum(weight.numel() for weight in product_weights(model))
        self.operations_per_token = (6 if self.base_fingerprint is None else 4) * self.matrix_parameters
        self._whole = copy.deepcopy(model) if world.size > 1 and world.leads else None
        names = set(model._no_split_modules or ())
        blocks = [module for module in model.modules() if type(module).__name__ in names]
        if config.activation_checkpointing:
            # A block is computed again as it was computed: the backward pass leaves what is entered around it.
            again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), self._products())}
            model.activation_checkpointing_enable(again)
        if config.compile:
            for block in blocks:
                _compile_for_training(block)
        self._loss = TokenLoss(model)
        shard(self._loss, blocks, world, dtype, set(model._keep_in_fp32_modules_strict or ()))
        self._loss.to(world.device).train()
        self.restart()

    def restart(self) -> None:
        """Forgets all but the weights: after steps with a learning rate of 0, it is as if none had been made."""
        self.optimizers = build_optimizers(self.model, self.config)
        self.scale = LossScale(True, FIRST_SCALE) if self.dtype == torch.float16 else LossScale()
        self.carry = Carry(self.model) if self.config.carry_state else None

    def gradients(self, batch: Batch, step: int = 0) -> float:
        """Adds the gradients of the mean loss per token that counts, over all processes; returns that loss in nats.

        Args:
            batch: this process's windows.
            step: seeds what is drawn at random.
        """
        torch.manual_seed((self._seed * 1_000_003 + step * self.world.size + self.world.rank) % 2**63)
        (count,) = self.world.sums(float((batch.targets != IGNORED).sum()))
        scale = self.scale.value / max(1.0, count)
        micro_batches = self._micro_batches
        fields = (batch.input_ids, batch.targets, batch.reset, batch.position_ids)
        total = 0.0
        for number, micro_batch in enumerate(zip(*(field.chunk(micro_batches) for field in fields), strict=True)):
            inputs = [tensor.to(self.world.device, non_blocking=True) for tensor in micro_batch]
            with self.autocast(), self._products():
                cache = None if self.carry is None else self.carry.cache(number, micro_batches)
                hidden, gradient, loss = self._loss(*inputs, cache, scale)
            hidden.backward(gradient)
            if self.carry is not None and cache is not None:
                self.carry.keep(number, cache)
            total += loss
        if self.carry is not None:
            self.carry.turn()
        return self.world.sums(total)[0] / self.scale.value

    def update(self, rate: float, loss: float) -> tuple[float, bool]:
        """Clips the gradients and steps with this learning rate, if they and the loss are finite; then drops them.

        Returns:
            The gradients' norm before clipping, and whether it made a step.
        """
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if self.scale.value != 1.0:
            torch._foreach_mul_(gradients, 1 / self.scale.value)
        norm: Tensor = clip_grad_norm_(self.model.parameters(), self.config.clip)
        size = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        finite = math.isfinite(size) and math.isfinite(loss)
        if finite:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
            self.scale.went_well()
        self.clear()
        return size, finite

    def learning_rate(self, step: int, steps: int) -> float:
        """That of step `step` of `steps`."""
        return learning_rate(step, steps, self.config)

    def clear(self) -> None:
        """Drops the gradients."""
        for parameter in self.model.parameters():
            parameter.grad = None

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of the matrix products."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.world.device.type, self.dtype)

    def _products(self) -> AbstractContextManager[Any]:
        """Makes the products of a baseline in fp32 as fast as they can be; our own layers do so by themselves."""
        return fast_products_on(self.world.device, self.dtype)

    @contextmanager
    def whole_model(self) -> Iterator[Any]:
        """The model with all its weights, in eval mode, on the first process; None on the others.

        Where the weights are shared out, it is a copy.
        """
        if self.world.size == 1:
            self.model.eval()  # type: ignore[no-untyped-call]
            try:
                yield self.model
            finally:
                self.model.train()
            return
        weights = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self._whole is None:
            yield None
            return
        self._whole.load_state_dict(weights)
        self._whole.to(self.world.device).eval()  # type: ignore[arg-type]
        try:
            yield self._whole
        finally:
            self._whole.to("cpu")  # type: ignore[arg-type]


def _freeze_all_but_initial_states(model: PreTrainedModel) -> str:
    """Leaves the initial states as the only weights that want a gradient; the model's fingerprint."""
    if not isinstance(model, SioConvForCausalLM):
        raise UserError(f"train.only: {type(model).__name__} has no initial state to train: set it to all")
    model.requires_grad_(False)
    for state in initial_states(model).values():
        state.requires_grad_(True)
    return model.fingerprint()


def _compile_for_training(block: nn.Module) -> None:
    """Compiles a block's forward for training alone: texts that are sampled have other lengths at each step."""
    plain = block.forward
    compiled = torch.compile(plain)

    def forward(*args: Any, **kwargs: Any) -> Any:
        chosen: Callable[..., Any] = compiled if block.training else plain
        return chosen(*args, **kwargs)

    block.forward = forward


def rows_and_micro_batches(config: TrainConfig, world: World) -> tuple[range, int]:
    """The rows of a step's windows that this process computes, and in how many micro-batches.

    Raises UserError where they can't be shared out evenly: all processes must make the same number of equal ones.
    """
    micro_batches = max(1, config.accumulation // world.size)
    if config.batch_size % (world.size * micro_batches):
        raise UserError(
            f"train.batch_size: {config.batch_size} windows can't be shared out to {world.size} processes in "
            f"{micro_batches} micro-batches each: take a multiple of {world.size * micro_batches}"
        )
    return rank_rows(config.batch_size, world.rank, world.size), micro_batches
