"""The rows of the table: which tool, which check, and what has to be installed for it."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from tests.compat.subject import Subject

# The packages of pyproject.toml's extras that the checks import.
EXTRAS = {
    "tune": ("trl", "peft", "accelerate"),
    "eval": ("lm_eval", "accelerate"),
    "serve": ("fastapi", "uvicorn", "openai", "accelerate"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        group: the tool.
        name: what works.
        check: `module.function` in this package; it returns what it measured and raises where it doesn't work.
        extra: the extra of pyproject.toml that it needs.
    """

    group: str
    name: str
    check: str
    extra: str | None = None

    @property
    def missing(self) -> list[str]:
        """Packages that the check needs and that aren't installed."""
        packages = EXTRAS[self.extra] if self.extra else ()
        return [package for package in packages if importlib.util.find_spec(package) is None]

    def run(self, subject: Subject) -> str:
        """Runs the check; what it measured, or its AssertionError, or whatever the tool raises."""
        module, function = self.check.split(".")
        check: Callable[[Subject], str] = getattr(importlib.import_module(f"tests.compat.{module}"), function)
        return check(subject)


ROWS = [
    Row("transformers", "Auto classes", "loading.auto_classes"),
    Row("transformers", "folder without the package", "standalone.without_package"),
    Row("generate", "greedy", "generation.greedy"),
    Row("generate", "sampling", "generation.sampling"),
    Row("generate", "beam search", "generation.beam_search"),
    Row("generate", "num_return_sequences", "generation.return_sequences"),
    Row("generate", "stopping criteria", "generation.stopping_criteria"),
    Row("generate", "stop strings", "generation.stop_strings"),
    Row("generate", "inputs_embeds", "generation.inputs_embeds"),
    Row("generate", "TextIteratorStreamer", "generation.streamer"),
    Row("pipeline", "text", "generation.pipeline_text"),
    Row("pipeline", "chat messages", "generation.pipeline_chat"),
    Row("batches", "left padding", "forward.left_padding"),
    Row("batches", "right padding", "forward.right_padding"),
    Row("cache", "goes on with several tokens", "forward.returned_cache"),
    Row("cache", "deep copies", "forward.copied_cache"),
    Row("cache", "prefill in chunks", "forward.chunked_prefill"),
    Row("forward", "logits_to_keep", "forward.logits_to_keep"),
    Row("forward", "output_hidden_states", "forward.hidden_states"),
    Row("loading", "bf16, fp16, fp32", "loading.precisions"),
    Row("loading", "device_map", "loading.device_map", "tune"),
    Row("loading", "embedding resize", "loading.resized"),
    Row("torch", "compile forward", "compiling.compiled_forward"),
    Row("torch", "compile decoding", "compiling.compiled_decoding"),
    Row("torch", "export prefill", "compiling.exported_prefill"),
    Row("Trainer", "resume", "training.trainer_resume", "tune"),
    Row("Trainer", "num_items_in_batch", "training.uneven_accumulation", "tune"),
    Row("Trainer", "gradient checkpointing", "training.checkpointed_gradients"),
    Row("TRL", "SFTTrainer, assistant_only_loss", "tuning.assistant_only", "tune"),
    Row("TRL", "SFTTrainer, packing (bfd)", "tuning.packing", "tune"),
    Row("TRL", "DPOTrainer", "tuning.preferences", "tune"),
    Row("PEFT", "LoRA, merge", "tuning.lora", "tune"),
    Row("lm_eval", "loglikelihood", "harness.loglikelihood", "eval"),
    Row("lm_eval", "loglikelihood_rolling", "harness.rolling", "eval"),
    Row("lm_eval", "generate_until", "harness.generate_until", "eval"),
    Row("serve", "transformers serve, openai client", "serving.openai_client", "serve"),
    Row("serve", "transformers chat", "serving.chat", "serve"),
]
