"""Bits of each document under a checkpoint of litgpt. Run with litgpt's Python: CHECKPOINT HELDOUT LENGTH ANSWER."""

import sys
from importlib.metadata import version
from pathlib import Path

import torch
from litgpt import GPT, Config, Tokenizer

from benchmarks.programs.windows import document_bits, read_texts, write_answer

checkpoint, heldout, answer = (Path(sys.argv[number]) for number in (1, 2, 4))
length = int(sys.argv[3])
model = GPT(Config.from_file(checkpoint / "model_config.yaml")).eval()
model.load_state_dict(torch.load(checkpoint / "lit_model.pth", weights_only=True)["model"])
tokenizer = Tokenizer(checkpoint)
documents = [tokenizer.encode(text, bos=True).tolist() for text in read_texts(heldout)]
write_answer(
    answer,
    parameters=sum(parameter.numel() for parameter in model.parameters()),
    bits=[document_bits(model, ids, length) for ids in documents],
    tokens=sum(len(ids) - 1 for ids in documents),
    version=version("litgpt"),
)
