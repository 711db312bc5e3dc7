"""A Llama of transformers as a GGUF file, for llama.cpp."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

KINDS = {
    "F32": gguf.GGMLQuantizationType.F32, "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
}  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end_of_turn|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# In a block: transformers' names and GGUF's.
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(model: Any, path: Path, kind: str = "F32", tokenizer: Any = None, context: int = 131_072) -> Path:
    """Writes a model.

    Args:
        model: a `LlamaForCausalLM`.
        path: the file.
        kind: of the matrices: F32, Q8_0 or Q4_0; norms stay F32.
        tokenizer: of bytes and merges; None for a file without text.
        context: most tokens.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if tokenizer is None:
        writer.add_tokenizer_model("none")
    else:
        _add_tokenizer(writer, tokenizer, config.vocab_size)
    for name, tensor in model.state_dict().items():
        data: NDArray[np.float32] = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            data = _in_pairs(data, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        wanted = KINDS[kind] if data.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(_name(name), gguf.quants.quantize(data, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _in_pairs(data: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of queries or keys [H·P, D] in llama.cpp's order: channels that are turned together are neighbours."""
    halves = data.reshape(heads, 2, -1, data.shape[1])  # [H, 2, P / 2, D]
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(data.shape)


def _name(name: str) -> str:
    name = name.removesuffix(".weight")
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    if name in outside:
        return f"{outside[name]}.weight"
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, size: int) -> None:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    types = [gguf.TokenType.UNUSED if i not in tokens else gguf.TokenType.NORMAL for i in range(size)]
    for i in special:
        types[i] = gguf.TokenType.CONTROL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in backend["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(i, f"<unused {i}>") for i in range(size)])
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(TEMPLATE)
