"""torch.compile and torch.export, with the eager form as the measure.

The backend is aot_eager: it traces and differentiates as inductor does, but needs no C++ compiler.
"""

from typing import Any

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.compat.subject import NEW, Subject, close, continuation, require, same

LIMIT = 1e-10  # of models in fp64


def _gradients(model: Any, call: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    call(ids, labels=ids).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def compiled_forward(subject: Subject) -> str:
    """Logits and gradients of a model compiled whole."""
    model, ids = subject.model(), subject.ids()
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")  # type: ignore[no-untyped-call]
    compiled: Any = torch.compile(model, backend=counter, fullgraph=True)
    with torch.no_grad():
        error = close(compiled(ids).logits, model(ids).logits, LIMIT, "logits")
    model.train()
    expected = _gradients(model, model, ids)
    for name, gradient in _gradients(model, compiled, ids).items():
        error = max(error, close(gradient, expected[name], LIMIT, f"gradient of {name}"))
    require(counter.frame_count == 2, f"{counter.frame_count} graphs")
    return f"differs by {error:.0e}; one graph each for reading and training"


def compiled_decoding(subject: Subject) -> str:
    """Greedy search with a compiled forward: its text, and no compilation per token or per length of the prompt."""
    model, ids = subject.model(), subject.ids()
    prompts = [ids, ids[:, :7], ids[:, :4], ids[:, :9]]
    expected = [continuation(model, prompt) for prompt in prompts]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")  # type: ignore[no-untyped-call]
    model.forward = torch.compile(model.forward, backend=counter, fullgraph=True)
    graphs = []
    for prompt, text in zip(prompts, expected, strict=True):
        same(continuation(model, prompt), text, "text")
        graphs.append(counter.frame_count)
    # One for a prompt, one for a token; a second length makes the prompt's general.
    require(graphs[0] <= 2 and graphs[1] <= 3 and graphs[1:] == graphs[1:2] * 3, f"graphs after each text: {graphs}")
    return f"{graphs[-1]} graphs for {len(prompts)} prompts of 4 lengths and {NEW * len(prompts)} steps"


@torch.no_grad()
def exported_prefill(subject: Subject) -> str:
    """torch.export of reading a prompt, saved and loaded: logits and cache of any batch and length; then one token."""
    model, ids = subject.model(torch.float32), subject.ids()
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", min=2, max=4096)
    shapes = {"input_ids": {0: batch, 1: length}, "use_cache": None}
    arguments = {"input_ids": ids[:2], "use_cache": True}  # two rows: one would be taken for a constant
    program = torch.export.export(model, (), arguments, dynamic_shapes=shapes, strict=False)
    torch.export.save(program, subject.scratch / "prefill.pt2")
    prefill = torch.export.load(subject.scratch / "prefill.pt2").module()
    error = 0.0
    for rows, size in ((1, 3), (3, 70), (1, 500)):
        text = subject.ids(size)[:rows]
        found, expected = prefill(input_ids=text, use_cache=True), model(text)
        error = max(error, close(found.logits, expected.logits, 1e-5, "logits"))
        require(found.cache.get_seq_length() == size, f"the cache has seen {found.cache.get_seq_length()} tokens")
        after = model(text[:, :1], cache=found.cache).logits
        error = max(error, close(after, model(text[:, :1], cache=expected.cache).logits, 1e-5, "next token"))
    return f"3 to 500 tokens, 1 to 3 rows: differs by {error:.0e}"
