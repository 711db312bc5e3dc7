"""A language model on torch.nn.LSTM to compare with: the frame of ours with an LSTM in the mixer's place.

Importing this module registers it with transformers' Auto classes.
"""

from typing import Any, NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.generic import can_return_tuple

from sioconv.model.architecture import Architecture
from sioconv.model.baselines.pieces import PackedLstm, Pieces, cut_rows
from sioconv.model.cache import SioConvCache
from sioconv.model.causal_lm import CausalLMOnStates, document_starts
from sioconv.model.layers import FeedForward


@strict
class LstmConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration of `LstmForCausalLM`.

    Args:
        vocab_size: V, rows of the embedding and of the head.
        hidden_size: D, width of the residual stream and of the LSTMs.
        num_hidden_layers: number of blocks.
        intermediate_size: width of the feed-forward layers, which have no biases.
        rms_norm_eps: epsilon of the RMSNorms.
        initializer_range: standard deviation that linear layers and the embedding start with.
        tie_word_embeddings: the head uses the embedding's matrix.
        tokenizer_fingerprint: hash of the vocabulary that the model was trained with.
    """

    model_type = "lstm_baseline"
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012  # Trainer adds a list to it

    vocab_size: int = 6144
    hidden_size: int = 256
    num_hidden_layers: int = 4
    intermediate_size: int = 512
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    tokenizer_fingerprint: str | None = None
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None


class LstmState(NamedTuple):
    """What an LSTM carries from one call to the next: output h and cell c, both [B, D], zero at the start."""

    h: Tensor
    c: Tensor


class LstmCache(SioConvCache):
    """The states of all layers, as `SioConvCache` keeps those of ours."""

    @staticmethod
    def read_state(tensors: dict[str, Tensor], prefix: str) -> LstmState:
        """One layer's state from the tensors whose names begin with `prefix`."""
        return LstmState(tensors[f"{prefix}h"], tensors[f"{prefix}c"])


class LstmBlock(GradientCheckpointingLayer):
    """x + LSTM(RMSNorm(x)), then x + SwiGLU(RMSNorm(x))."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        width = config.hidden_size
        self.lstm_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.ffn_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.ffn = FeedForward(
            Architecture(hidden_size=width, intermediate_size=config.intermediate_size, use_bias=False)
        )

    def forward(self, x: Tensor, state: LstmState | None, pieces: Pieces | None) -> tuple[Tensor, LstmState]:
        """x [B, T, D] to the same, and the LSTM's state after it.

        Args:
            x: input.
            state: what the call before returned; None for zero.
            pieces: of each row; all but its first start from zero.
        """
        y, new_state = self._mix(self.lstm_norm(x), state, pieces)
        x = x + y
        return x + self.ffn(self.ffn_norm(x)), new_state

    def _mix(self, x: Tensor, state: LstmState | None, pieces: Pieces | None) -> tuple[Tensor, LstmState]:
        # In the precision of its weights, fp32 in training: bf16 would round the cell at every step, and a slow forget
        # gate to 1.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.lstm_norm.weight.dtype)
            if pieces is None:
                y, (h, c) = self.lstm(x, None if state is None else (state.h.unsqueeze(0), state.c.unsqueeze(0)))
                return y, LstmState(h[0], c[0])
            before = x.new_zeros(2, sum(pieces.sizes[:1]), x.shape[-1])
            if state is not None:
                before = before.index_copy(1, pieces.first, torch.stack(tuple(state)))
            mix = self._cudnn if x.is_cuda else self._packed
            return mix(x, before, pieces)

    def _packed(self, x: Tensor, before: Tensor, pieces: Pieces) -> tuple[Tensor, LstmState]:
        weight_ih, weight_hh, bias_ih, bias_hh = (parameter for _, parameter in self.lstm.named_parameters())
        inputs = nn.functional.linear(x.flatten(0, 1)[pieces.order], weight_ih, bias_ih + bias_hh)
        found = PackedLstm.apply(inputs, weight_hh, *before, pieces.sizes)  # type: ignore[no-untyped-call]
        back = pieces.order.argsort()
        h, c = (tensor[back].view_as(x) for tensor in found)
        return h, LstmState(h[:, -1], c[:, -1])

    def _cudnn(self, x: Tensor, before: Tensor, pieces: Pieces) -> tuple[Tensor, LstmState]:
        sizes = torch.tensor(pieces.sizes)
        packed = PackedSequence(x.flatten(0, 1)[pieces.order], sizes)
        out, (h, c) = self.lstm(packed, tuple(before.unsqueeze(1)))
        y = out.data[pieces.order.argsort()].view_as(x)
        return y, LstmState(h[0, pieces.last], c[0, pieces.last])


class LstmPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What the base model and the language model share."""

    config: LstmConfig
    config_class = LstmConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LstmBlock"]  # noqa: RUF012
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, nn.LSTM):  # forget gates start open (Jozefowicz et al. 2015)
            bias = torch.zeros(4, module.hidden_size)  # of the input, forget, cell and output gate
            bias[1] = 1.0
            init.copy_(module.get_parameter("bias_ih_l0"), bias.flatten())


class LstmModel(LstmPreTrainedModel):  # type: ignore[no-untyped-call]
    """Embedding, blocks and the last RMSNorm: token ids to hidden states."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LstmBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: LstmCache | None = None,
        use_cache: bool | None = None,
        reset: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states after the last RMSNorm.

        Args:
            input_ids: [B, T].
            attention_mask: [B, seen + T], of ones: padding isn't masked.
            position_ids: [B, T]; a 0 starts a document: the state is reset there.
            cache: continue from these states; updated in place.
            use_cache: return the states (made when `cache` is None).
            reset: [B, T] bool, document starts given outright; stands above position_ids.

        Raises:
            ValueError: something is masked.
        """
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("an LSTM would read the padding: give rows of one length, or padding behind the text only")
        if cache is None and (self.config.use_cache and not self.training if use_cache is None else use_cache):
            cache = LstmCache(self.config)  # type: ignore[arg-type]  # it takes the number of layers
        x = self.embed_tokens(input_ids)  # [B, T, D]
        if reset is None:
            reset = document_starts(x.shape[0], x.shape[1], position_ids)
        pieces = None if reset is None else cut_rows(reset.expand(x.shape[:2]))
        for i, block in enumerate(self.layers):
            state = None if cache is None else cache.layers[i].state
            if state is not None and reset is not None:
                state = LstmState(*(tensor.masked_fill(reset[:, :1], 0) for tensor in state))
            x, new_state = block(x, state, pieces)
            if cache is not None:
                cache.layers[i].state = new_state
        if cache is not None:
            cache.tokens_seen = cache.tokens_seen + x.shape[1]
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), cache=cache)


class LstmForCausalLM(CausalLMOnStates, LstmPreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """The LSTM with a language-modelling head without bias."""

    cache_type = LstmCache
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        self.model = LstmModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]


AutoConfig.register(LstmConfig.model_type, LstmConfig, exist_ok=True)
AutoModelForCausalLM.register(LstmConfig, LstmForCausalLM, exist_ok=True)
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[LstmConfig.model_type] = LstmForCausalLM.__name__
