"""Bits of each document under nanochat's checkpoint `programs`. Run with its Python: STEP HELDOUT LENGTH ANSWER.

nanochat's rows all begin with bos, so the windows do too. Its own measure of the validation shard goes along.
"""

import sys
from pathlib import Path

import torch
from nanochat.checkpoint_manager import load_model
from nanochat.dataloader import tokenizing_distributed_data_loader_bos_bestfit
from nanochat.loss_eval import evaluate_bpb
from nanochat.tokenizer import get_token_bytes

from benchmarks.programs.windows import document_bits, read_texts, write_answer

step, heldout, length, answer = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
model, tokenizer, _ = load_model("base", torch.device("cpu"), "eval", model_tag="programs", step=step)
bos = tokenizer.get_bos_token_id()
documents = [tokenizer.encode(text, prepend=bos) for text in read_texts(heldout)]
tokens = sum(len(ids) - 1 for ids in documents)
batches = tokenizing_distributed_data_loader_bos_bestfit(tokenizer, 4, length, split="val", device="cpu")
write_answer(
    answer,
    parameters=sum(parameter.numel() for parameter in model.parameters()),
    bits=[document_bits(model, ids, length, begin=bos) for ids in documents],
    own_bpb=evaluate_bpb(model, batches, max(1, tokens // (4 * length)), get_token_bytes()),
)
