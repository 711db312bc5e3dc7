"""The frame of the recurrent models to compare with: ours, with another mixer in each block."""

from abc import abstractmethod
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.generic import can_return_tuple

from sioconv.model.architecture import Architecture
from sioconv.model.cache import SioConvCache
from sioconv.model.causal_lm import CausalLMOnStates, document_starts
from sioconv.model.configuration import takes_whole_numbers
from sioconv.model.layers import FeedForward


@takes_whole_numbers
@strict
class RecurrentConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration of a `RecurrentForCausalLM`.

    Args:
        vocab_size: V, rows of the embedding and of the head.
        hidden_size: D, width of the residual stream.
        num_hidden_layers: number of blocks.
        intermediate_size: width of the feed-forward layers, which have no biases.
        rms_norm_eps: epsilon of the RMSNorms.
        initializer_range: standard deviation that linear layers and the embedding start with.
        tie_word_embeddings: the head uses the embedding's matrix.
        tokenizer_fingerprint: hash of the vocabulary that the model was trained with.
    """

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


class RecurrentCache(SioConvCache):
    """The states of all layers, as `SioConvCache` keeps those of ours."""

    state_type: Any  # a named tuple of tensors [B, …]

    @classmethod
    def read_state(cls, tensors: dict[str, Tensor], prefix: str) -> Any:
        """One layer's state from the tensors whose names begin with `prefix`."""
        return cls.state_type(*(tensors[f"{prefix}{name}"] for name in cls.state_type._fields))


class RecurrentBlock(GradientCheckpointingLayer):
    """x + mix(x), then x + SwiGLU(RMSNorm(x)). A subclass makes its layers and mixes."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.make_mixer(config)
        width = config.hidden_size
        self.ffn_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.ffn = FeedForward(
            Architecture(hidden_size=width, intermediate_size=config.intermediate_size, use_bias=False)
        )

    @abstractmethod
    def make_mixer(self, config: RecurrentConfig) -> None:
        """Makes the layers of the block's first branch, its norm among them."""

    @staticmethod
    def read_starts(reset: Tensor) -> Any:
        """What `mix` wants to know of the documents' starts `reset` [B, T]."""
        return reset

    @abstractmethod
    def mix(self, x: Tensor, state: Any, starts: Any) -> tuple[Tensor, Any]:
        """The first branch of x [B, T, D], and the state after it.

        Args:
            x: input.
            state: a named tuple of tensors [B, …] that the call before returned; None for zero.
            starts: of documents, as `read_starts` gives them, which begin from zero; None for none.
        """

    def forward(self, x: Tensor, state: Any, starts: Any) -> tuple[Tensor, Any]:
        """x [B, T, D] to the same, and the state; the arguments are those of `mix`."""
        y, new_state = self.mix(x, state, starts)
        x = x + y
        return x + self.ffn(self.ffn_norm(x)), new_state


class RecurrentPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What the base model and the language model share."""

    config: RecurrentConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _is_stateful = True


class RecurrentModel(RecurrentPreTrainedModel):  # type: ignore[no-untyped-call]
    """Embedding, blocks and the last RMSNorm: token ids to hidden states."""

    block_type: type[RecurrentBlock]
    cache_type: type[RecurrentCache]

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(self.block_type(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: RecurrentCache | None = None,
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
            raise ValueError(
                f"{self.config.model_type} would read the padding: give rows of one length, or padding behind the text "
                "only"
            )
        if cache is None and (self.config.use_cache and not self.training if use_cache is None else use_cache):
            cache = self.cache_type(self.config)  # type: ignore[arg-type]  # it takes the number of layers
        x = self.embed_tokens(input_ids)  # [B, T, D]
        if reset is None:
            reset = document_starts(x.shape[0], x.shape[1], position_ids)
        starts = None if reset is None else self.block_type.read_starts(reset.expand(x.shape[:2]))
        for i, block in enumerate(self.layers):
            state = None if cache is None else cache.layers[i].state
            if state is not None and reset is not None:
                state = state._make(tensor.masked_fill(reset[:, :1], 0) for tensor in state)
            x, new_state = block(x, state, starts)
            if cache is not None:
                cache.layers[i].state = new_state
        if cache is not None:
            cache.tokens_seen = cache.tokens_seen + x.shape[1]
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), cache=cache)


class RecurrentForCausalLM(CausalLMOnStates, RecurrentPreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """A base model with a language-modelling head without bias."""

    base_type: type[RecurrentModel]
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.model = self.base_type(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def register(cls) -> None:
        """Makes transformers' Auto classes know the model and its configuration."""
        config_class: Any = cls.config_class
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModelForCausalLM.register(config_class, cls, exist_ok=True)
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config_class.model_type] = cls.__name__
