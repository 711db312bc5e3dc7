"""llama.cpp, for `benchmarks.decode`: a Llama of the same size with random weights in a GGUF file."""

import ctypes
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import torch
from transformers import LlamaForCausalLM

from benchmarks.decode_models import Candidate, Ids, TooLargeError, architecture, check_size, products
from benchmarks.gguf_files import write_gguf
from sioconv.model.baselines.architectures import build_baseline

PIECE = 512  # tokens that are read to fill a context with copies of what they have become
READ = 4096  # most tokens that are read to fill the contexts of several texts
BLOCK = 32  # weights that are quantised together
BITS = {"F32": 32, "Q8_0": 8.5, "Q4_0": 4.5}  # of a weight, scales included


@dataclass
class Memory:
    """A context of llama.cpp with so many texts.

    Args:
        context: llama.cpp's own.
        length: tokens of each text.
    """

    context: Any
    length: int

    def __del__(self, free: Any = llama.llama_free) -> None:
        free(self.context)


class LlamaCpp:
    """A model that llama.cpp runs.

    Args:
        model: a `LlamaForCausalLM`; it may go after that.
        kind: of its matrices, see `write_gguf`.
    """

    def __init__(self, model: Any, kind: str) -> None:
        _quiet()
        with tempfile.TemporaryDirectory() as folder:
            file = write_gguf(model, Path(folder) / "model.gguf", kind)
            options = llama.llama_model_default_params()
            options.use_mmap = False
            self._model = llama.llama_model_load_from_file(bytes(file), options)
        if self._model is None:
            raise RuntimeError("llama.cpp can't load the model")
        self._vocabulary = model.config.vocab_size

    def memories(self, rows: int, length: int) -> Memory:
        """A memory of so many texts of so many tokens. One text isn't all read, see `_filled`; of several the first is.

        Raises TooLargeError where that would take too long.
        """
        if rows > 1 and length > READ:
            raise TooLargeError(f"needs {length:,} tokens to be read for {rows} texts at once")
        memory = Memory(self._context(rows, length + 1024 if length else 32_768), 0)
        if length and rows == 1:
            data = self._filled(length)
            llama.llama_state_seq_set_data(memory.context, data, len(data), 0)
        elif length:
            for start in range(0, length, PIECE):
                self._read(memory.context, [self._ids(start, min(PIECE, length - start))], start)
            for row in range(1, rows):
                llama.llama_memory_seq_cp(llama.llama_get_memory(memory.context), 0, row, -1, -1)
        memory.length = length
        return memory

    def step(self, memory: Memory, ids: Ids) -> Any:
        """Reads ids [B][T], and says the likeliest next of each, [B]; a single token is forgotten again."""
        self._read(memory.context, ids, memory.length)
        if len(ids[0]) == 1:
            for row in range(len(ids)):
                llama.llama_memory_seq_rm(llama.llama_get_memory(memory.context), row, memory.length, -1)
        else:
            memory.length += len(ids[0])
        places = [(row + 1) * len(ids[0]) - 1 for row in range(len(ids))]
        logits = [llama.llama_get_logits_ith(memory.context, place) for place in places]
        return np.array([np.ctypeslib.as_array(each, (self._vocabulary,)).argmax() for each in logits])

    def size(self, memory: Memory) -> int:
        """Bytes of a memory that are in use."""
        return int(llama.llama_state_get_size(memory.context))

    def _context(self, rows: int, length: int, unified: bool = False) -> Any:
        options = llama.llama_context_default_params()
        options.n_ctx = length if unified else rows * length
        options.n_seq_max, options.kv_unified = rows, unified
        options.n_batch = options.n_ubatch = max(PIECE, rows)
        options.n_threads = options.n_threads_batch = torch.get_num_threads()
        context = llama.llama_init_from_model(self._model, options)
        if context is None:
            raise RuntimeError("llama.cpp can't make the context")
        return context

    def _filled(self, length: int) -> Any:
        """The memory of a text of so many tokens, which repeats a piece that is read once."""
        piece = min(PIECE, length)
        source = Memory(self._context(3, length + 512, unified=True), 0)
        cells = llama.llama_get_memory(source.context)
        self._read(source.context, [self._ids(0, piece)], 0, row=1)
        data = _data_of(source.context, 1)
        llama.llama_memory_seq_rm(cells, 1, -1, -1)
        for start in range(0, length, piece):
            count = min(piece, length - start)
            llama.llama_state_seq_set_data(source.context, data, len(data), 2)
            llama.llama_memory_seq_rm(cells, 2, count, -1)
            llama.llama_memory_seq_add(cells, 2, 0, count, start)
            llama.llama_memory_seq_cp(cells, 2, 0, -1, -1)
            llama.llama_memory_seq_rm(cells, 2, -1, -1)
        self._read(source.context, [[0]], length)  # keys are turned to their new places with the next token
        llama.llama_memory_seq_rm(cells, 0, length, -1)
        return _data_of(source.context, 0)

    def _ids(self, start: int, count: int) -> list[int]:
        return [(7 * token) % self._vocabulary for token in range(start, start + count)]

    def _read(self, context: Any, ids: Ids, start: int, row: int = 0) -> None:
        count = len(ids) * len(ids[0])
        batch = llama.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            for i in range(count):
                text, place = divmod(i, len(ids[0]))
                batch.token[i], batch.pos[i] = ids[text][place], start + place
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, row + text
                batch.logits[i] = place == len(ids[0]) - 1
            if (code := llama.llama_decode(context, batch)) != 0:
                raise RuntimeError(f"llama.cpp can't read: {code}")
        finally:
            llama.llama_batch_free(batch)


def _data_of(context: Any, row: int) -> Any:
    size = llama.llama_state_seq_get_size(context, row)
    data = (ctypes.c_uint8 * size)()
    if llama.llama_state_seq_get_data(context, data, size, row) != size:
        raise RuntimeError("llama.cpp gives no context")
    return data


def _quiet() -> None:
    llama.llama_log_set(_nothing, ctypes.c_void_p(0))


@llama.llama_log_callback
def _nothing(*_: Any) -> None:
    """What llama.cpp says of itself."""


def llama_cpp_peer(size: str, kind: str) -> Candidate:
    """A Llama of that size in llama.cpp. Raises TooLargeError.

    The width of its feed-forward layers is a multiple of 32, which is a block of quantised weights.
    """
    shape, vocabulary = architecture(size)
    with torch.device("meta"):
        planned: Any = build_baseline("llama", shape, vocabulary)
    check_size(4 * planned.num_parameters())  # it is written from fp32
    config = planned.config
    config.intermediate_size = BLOCK * max(1, round(config.intermediate_size / BLOCK))
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    byte = BITS[kind] / 8
    table = model.get_input_embeddings().weight.numel()
    weights = int(byte * model.num_parameters())
    peer = LlamaCpp(model, kind)
    return Candidate(weights, int(weights - byte * table), products(model), peer.memories, peer.step, peer.size)
