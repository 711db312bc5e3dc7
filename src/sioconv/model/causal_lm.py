"""The language model as a transformers model: embedding, blocks, RMSNorm, head, and generation."""

import hashlib
import json
from dataclasses import fields
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_layers import (
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.utils.generic import can_return_tuple

from sioconv.model.architecture import NEWER_FIELDS, Architecture
from sioconv.model.cache import SioConvCache
from sioconv.model.configuration import SioConvConfig
from sioconv.model.convolution import TABLE_STD, Bigrams, Steps
from sioconv.model.layers import FeedForward, RMSNorm, SioConvBlock, SioConvLayer, bounded
from sioconv.model.quantised import QuantisedWeight, register_quantizer
from sioconv.ops import fast_products


class CheckpointedBlock(GradientCheckpointingLayer, SioConvBlock):  # type: ignore[no-untyped-call]
    """A block that recomputes its inside in the backward pass when gradient checkpointing is on."""


class SioConvPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What the base model and the language model share: configuration class, initialisation, loading."""

    config: SioConvConfig
    config_class = SioConvConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CheckpointedBlock"]  # noqa: RUF012
    _is_stateful = True
    # The forget gates decide how long the memory is: a half precision would round long memories away.
    _keep_in_fp32_modules_strict = {"dt_proj", "A_log", "initial_state"}  # noqa: RUF012
    # What quantisers leave alone: some compare a layer's name, torchao's a parameter's, from its beginning.
    _keep_in_fp32_modules = {"dt_proj", "mix_proj", ".*dt_proj", ".*mix_proj"}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SioConvLayer):
            for name, value in module.initial_values().items():
                init.copy_(module.get_parameter(name), value)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.embedding_std)
            limit = self.config.embedding_max_norm
            if limit is not None:
                # A longer row is looked up at the limit: start there, where the gradient's scale is right.
                scale = (limit / module.weight.norm(dim=-1, keepdim=True)).clamp(max=1)
                init.copy_(module.weight, module.weight * scale)
        elif isinstance(module, Bigrams):  # after the layers in it
            init.normal_(module.table.weight, std=TABLE_STD)
            init.zeros_(module.out.weight)
        elif isinstance(module, FeedForward):  # the same
            if self.config.zero_out_projections:
                for parameter in module.down_proj.parameters():
                    init.zeros_(parameter)
        elif isinstance(module, nn.Linear) and self.config.linear_std is not None:
            init.normal_(module.weight, std=self.config.linear_std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):  # as torch starts it; the mixer's are then set by the mixer
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Parameters of the model; those of a quantised matrix count as its weights, however few bits they have."""
        count: int = super().num_parameters(only_trainable, exclude_embeddings)
        if not only_trainable:
            matrices = {id(m.codes): m for m in self.modules() if isinstance(m, QuantisedWeight)}  # tied ones once
            count += sum(m.rows * m.columns - m.codes.numel() - m.scales.numel() for m in matrices.values())
        return count

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """transformers' own. Raises ValueError where `bigram_rows` ties another table to the vocabulary's size."""
        same = new_num_tokens in (None, self.config.vocab_size) and pad_to_multiple_of is None
        if self.config.bigram_rows and not same:
            raise ValueError("bigram_rows: the table is read by the vocabulary's size, which therefore can't change")
        embedding: nn.Embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        return embedding

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:  # noqa: ARG002
        # transformers leaves a module alone if its own parameters are loaded; a mixer also starts its linear layers.
        if not all(getattr(parameter, "_is_hf_initialized", False) for parameter in module.parameters()):
            super()._initialize_weights(module, is_custom_code=False)


class SioConvModel(SioConvPreTrainedModel):  # type: ignore[no-untyped-call]
    """Embedding, blocks and the last RMSNorm: token ids to hidden states."""

    def __init__(self, config: SioConvConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.bigrams = Bigrams(config, config.vocab_size) if config.bigram_rows else None
        self.layers = nn.ModuleList(CheckpointedBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: SioConvCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        reset: Tensor | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: SioConvCache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states after the last RMSNorm.

        Args:
            input_ids: [B, T]; or `inputs_embeds` [B, T, D] in their place, which are bounded as the embedding's rows
                are (`embedding_max_norm`). With `bigram_rows` only ids will do.
            attention_mask: [B, T] or [B, seen + T], 0 at padding.
            position_ids: [B, T]; a 0 starts a document, and so does what doesn't follow the position before (with a
                mask: what goes back): the state is reset there.
            cache: continue from these states; updated in place.
            use_cache: return the states (made when `cache` is None).
            reset: [B, T] bool, document starts given outright; stands above position_ids.
            past_key_values: the older name of `cache`.
            kwargs: `seq_idx` [B, T] and `cu_seq_lens_q` [N + 1] (for B = 1) mark documents as well; others are ignored.

        Raises:
            TypeError: `cache` is one of transformers' own.
            ValueError: neither or both of input_ids and inputs_embeds are given, or inputs_embeds where the model reads
                ids; the mask, or what marks documents, has another form; the cache has another number of layers, or no
                last token.
        """
        cache = past_key_values if cache is None else cache
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids [B, T] and inputs_embeds [B, T, D]")
        if cache is not None and not hasattr(cache, "tokens_seen"):
            raise TypeError(f"cache is a {type(cache).__name__}: give a SioConvCache, or none to get a new one")
        if cache is not None and len(cache.layers) != len(self.layers):
            raise ValueError(f"cache has {len(cache.layers)} layers, the model {len(self.layers)}: give one of its own")
        x = inputs_embeds if input_ids is None else self.embed_tokens(input_ids)  # [B, T, D]
        assert x is not None
        # Behind the module: adapters on it add to its rows, and merged or not, it is their sum that is bounded.
        x = bounded(x, self.config.embedding_max_norm)
        length = x.shape[1]
        use_cache = use_cache if use_cache is not None else (self.config.use_cache and not self.training)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if use_cache and cache is None:
            cache = SioConvCache(self.config)
        mask = None if attention_mask is None else padding_mask(attention_mask, length)
        if reset is None:
            marks = (position_ids, kwargs.get("seq_idx"), kwargs.get("cu_seq_lens_q"))
            reset = document_starts(x.shape[0], length, *marks, masked=mask is not None)
        reset = None if reset is None else reset.expand(x.shape[0], length)
        if self.bigrams is not None:
            x = x + self._summand(self.bigrams, input_ids, cache, mask, reset).to(x.dtype)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)  # what stands in padding reaches nothing, whatever it is

        hidden_states = [x] if output_hidden_states else None
        for i, block in enumerate(self.layers):
            state = None if cache is None else cache.layers[i].state
            x, new_state = block(x, state, mask, reset, cache is not None)
            if cache is not None:
                cache.layers[i].state = new_state
            if hidden_states is not None:
                hidden_states.append(x)
        if cache is not None:
            cache.tokens_seen = cache.tokens_seen + length
        x = self.norm(x)
        if hidden_states is not None:
            hidden_states[-1] = x
        return BaseModelOutputWithPast(
            last_hidden_state=x, cache=cache, hidden_states=None if hidden_states is None else tuple(hidden_states)
        )

    @staticmethod
    def _summand(
        bigrams: Bigrams, ids: Tensor | None, cache: SioConvCache | None, mask: Tensor | None, reset: Tensor | None
    ) -> Tensor:
        """What bigrams add to the embedding, [B, T, D]; the cache gets its new last token."""
        if ids is None:
            raise ValueError("inputs_embeds can't tell a model with bigram_rows which tokens they are: give input_ids")
        last = None if cache is None else cache.last_token
        if cache is not None and last is None and cache.layers[0].state is not None:
            raise ValueError("the cache has states but no last_token, which bigram_rows needs: give one of its own")
        reset = reset if reset is None or mask is None else reset & mask  # no document begins at padding
        summand: Tensor
        summand, last = bigrams(ids, last, Steps(mask, reset))
        if cache is not None:
            cache.last_token = last
        return summand


def padding_mask(attention_mask: Tensor, length: int) -> Tensor:
    """[B, T] bool, False at padding, for the last T = `length` of the tokens that the mask covers.

    Raises:
        ValueError: it isn't [B, T] or longer: a mask of pairs [B, 1, T, S], as attention has, can't be followed; or it
            is one that is added to scores, where 0 means the opposite.
    """
    shape = list(getattr(attention_mask, "shape", [type(attention_mask).__name__]))
    if len(shape) != 2:
        raise ValueError(
            f"attention_mask has shape {shape}: give [B, T], 0 at padding; a recurrence reads all that comes before, "
            "and keeps packed documents apart by position_ids, seq_idx, cu_seq_lens_q or reset"
        )
    if shape[1] < length:
        raise ValueError(f"attention_mask covers {shape[1]} tokens of {length}: give [B, T] or [B, seen + T]")
    if attention_mask.is_floating_point() and _any_negative(attention_mask):
        raise ValueError(
            "attention_mask holds negative numbers, as one that is added to scores: give 1, and 0 at padding"
        )
    return attention_mask[:, shape[1] - length :].bool()


def _any_negative(mask: Tensor) -> bool:
    """Whether it is seen to hold negative numbers: one that is traced, mapped or on the meta device can't be read."""
    try:
        return not torch.compiler.is_compiling() and bool((mask < 0).any())
    except RuntimeError:
        return False


def document_starts(
    batch: int,
    length: int,
    position_ids: Tensor | None,
    seq_idx: Tensor | None = None,
    cu_seq_lens: Tensor | None = None,
    masked: bool = False,
) -> Tensor | None:
    """[B, T] or [1, T] bool, True where a document begins, from whichever marks are given; None where none is.

    Positions are read as transformers' attention reads them: what doesn't follow the one before begins a document.

    Args:
        batch: B.
        length: T.
        position_ids: [B, T] or [T], 0 at a start.
        seq_idx: [B, T], the number of the document each token belongs to; the first goes on with what the cache holds.
        cu_seq_lens: [N + 1], where the documents of a single row begin and the last ends.
        masked: whether there is padding, over which positions may jump.

    Raises:
        ValueError: they are of another number of tokens, or `cu_seq_lens` of several rows.
    """
    for name, marks in (("position_ids", position_ids), ("seq_idx", seq_idx)):
        if marks is not None and marks.shape[-1] != length:
            raise ValueError(f"{name} has shape {list(marks.shape)}: give [B, T] with T = {length}")
    if cu_seq_lens is not None:
        if batch != 1:
            raise ValueError(f"cu_seq_lens_q is for one row of packed documents, not for {batch}: give position_ids")
        starts = torch.zeros(1, length + 1, dtype=torch.bool, device=cu_seq_lens.device)
        return starts.index_fill(1, cu_seq_lens.long(), True)[:, :length]
    if seq_idx is not None:
        return seq_idx != _before(seq_idx, seq_idx[..., :1])
    if position_ids is None:
        return None
    step = position_ids - _before(position_ids, position_ids[..., :1] - 1)
    return (position_ids == 0) | (step < 0 if masked else step != 1)


def _before(marks: Tensor, first: Tensor) -> Tensor:
    """marks [B, T] one token before, with `first` [B, 1] in front; exported, it holds for every T, 1 among them."""
    return torch.cat([first, marks], dim=-1)[..., : marks.shape[-1]]


class CausalLMOnStates:
    """A language-modelling head on a base model whose memory is a `SioConvCache`, in transformers' form.

    The class that joins it to a `PreTrainedModel` makes `model`, the base model, and `lm_head`.
    """

    cache_type = SioConvCache
    config: Any
    model: Any
    lm_head: nn.Linear
    loss_function: Any

    def new_cache(self) -> SioConvCache:
        """The memory before the first token."""
        return self.cache_type(self.config)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: SioConvCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V] (or of the last `logits_to_keep` steps), and the loss where `labels` [B, T] are given.

        Labels are the input ids, shifted inside, -100 where no loss is wanted. The other arguments are those of the
        base model.

        Raises:
            ValueError: an adapter would leave out the head's bias.
        """
        if type(self.lm_head) is not nn.Linear and getattr(self.config, "head_bias", False):
            _refuse_head_without_bias(self.lm_head)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        hidden = hidden[:, logits_to_keep if isinstance(logits_to_keep, Tensor) else keep]
        with fast_products(hidden):
            logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, cache=outputs.cache, hidden_states=outputs.hidden_states
        )

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> Any:
        if generation_config.use_cache is not False and model_kwargs.get("cache") is None:
            model_kwargs["cache"] = self.new_cache()

    def init_continuous_batching(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: `generate_batch` and `transformers serve --continuous-batching` page keys and values."""
        raise ValueError(
            f"continuous batching pages keys and values, which {type(self).__name__} doesn't have: give generate() the "
            "prompts as one padded batch, and run transformers serve without --continuous-batching"
        )

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None = None, **_: Any) -> Tensor | None:
        """The 2-D padding mask as it is: a recurrence needs no causal one."""
        return attention_mask


def _refuse_head_without_bias(head: nn.Module) -> None:
    """Raises ValueError where PEFT computes a tied head with the embedding's new rows: it leaves out the bias."""
    tied = any(getattr(part, "tied_adapter", None) is not None for part in head.modules())
    whole = any(
        getattr(part, "bias", head) is None for part in getattr(head, "modules_to_save", nn.ModuleDict()).values()
    )
    if tied or whole:
        raise ValueError(
            "PEFT would compute the head, which is tied to the embedding, without its bias: adapt other layers, "
            "or train a model with tie_word_embeddings: false or head_bias: false"
        )


class SioConvForCausalLM(CausalLMOnStates, SioConvPreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """SioConv with a language-modelling head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: SioConvConfig) -> None:
        super().__init__(config)
        self.model = SioConvModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def forget_gates(self, input_ids: Tensor) -> list[Tensor]:
        """log a_t of each layer on a text, [B, T, H] or [B, T, H, P] fp32, ids [B, T] read from the initial state."""
        gates: list[Tensor] = []
        hooks = [
            mixer.dt_proj.register_forward_hook(lambda _, __, dt, mixer=mixer: gates.append(mixer.gate_of(dt)))
            for mixer in (block.mixer for block in self.model.layers)
        ]
        try:
            self.model(input_ids, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return gates

    def fingerprint(self) -> str:
        """A hash of the architecture and of the ends of every parameter: does a saved state belong to this model?"""
        sizes = {field.name: getattr(self.config, field.name) for field in fields(Architecture)}
        for name, value in NEWER_FIELDS.items():  # else the states of models from before them would be refused
            if sizes[name] == value:
                del sizes[name]
        digest = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode())
        for name, value in self.named_parameters():
            flat = value.detach().flatten()
            ends = torch.cat([flat[:64], flat[-64:]]).float().cpu()
            digest.update(name.encode() + str(tuple(value.shape)).encode() + ends.numpy().tobytes())
        return digest.hexdigest()


class SioConvForSequenceClassification(GenericForSequenceClassification, SioConvPreTrainedModel):  # type: ignore[no-untyped-call]
    """One result per text, such as a reward: a linear head on the hidden state of its last token, [B, num_labels].

    The last token is the last that isn't `config.pad_token_id`, on whichever side padding is. `forward` is that of
    transformers' `GenericForSequenceClassification`.
    """

    def __init__(self, config: SioConvConfig) -> None:
        super(GenericForSequenceClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.model = SioConvModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]


class SioConvForTokenClassification(GenericForTokenClassification, SioConvPreTrainedModel):  # type: ignore[no-untyped-call]
    """One result per token: a linear head on every hidden state, [B, T, num_labels].

    `forward` is that of transformers' `GenericForTokenClassification`.
    """

    def __init__(self, config: SioConvConfig) -> None:
        super(GenericForTokenClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.model = SioConvModel(config)
        self.dropout = nn.Dropout(getattr(config, "classifier_dropout", 0.1))
        self.score = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]


register_quantizer()

for auto_class, model_class in (  # in the package only
    (AutoModel, SioConvModel),
    (AutoModelForCausalLM, SioConvForCausalLM),
    (AutoModelForSequenceClassification, SioConvForSequenceClassification),
    (AutoModelForTokenClassification, SioConvForTokenClassification),
):
    auto_class.register(SioConvConfig, model_class, exist_ok=True)

# Trainer (which labels to shift), pipelines, model cards and `serve` know what a model does by its class's name alone.
for names, model_class in (
    (MODEL_MAPPING_NAMES, SioConvModel),
    (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, SioConvForCausalLM),
    (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, SioConvForSequenceClassification),
    (MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, SioConvForTokenClassification),
):
    names[SioConvConfig.model_type] = model_class.__name__
