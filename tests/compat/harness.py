"""lm-evaluation-harness on local tasks, with our own log-likelihoods as the measure."""

import json
from typing import Any

import lm_eval
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from sioconv.evaluate.bits import bits_per_byte
from tests.compat.subject import NEW, TEXTS, Subject, close, require

STOP = "。"
CHOICES = [
    {"question": "宮城県の県庁は", "choices": ["仙台市である。", "海である。"]},
    {"question": "The river runs from the hills", "choices": [" to the sea.", " back again and again."]},
    {"question": "川は山から", "choices": ["海へ流れる。", "the rain"]},
]


def evaluate(subject: Subject, name: str, rows: list[dict[str, Any]], task: dict[str, Any], **options: Any) -> Any:
    """Writes a task and its data into the scratch folder and runs it; its results and its samples in order."""
    folder = subject.scratch / name
    folder.mkdir()
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    text = yaml.safe_dump({"task": name, **source, **task}, allow_unicode=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    model = HFLM(str(subject.folder), device="cpu", dtype="float32", batch_size=2, **options)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found: Any = lm_eval.simple_evaluate(model, tasks=[name], task_manager=manager, bootstrap_iters=0)
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    require(len(samples) == len(rows), f"{len(samples)} samples of {len(rows)}")
    return found["results"][name], samples


@torch.no_grad()
def loglikelihood(subject: Subject) -> str:
    """Multiple choice: the log-likelihood of each answer, whether it is the greedy one, and the share of right ones."""
    task = {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}"}
    task |= {"doc_to_target": 0, "target_delimiter": "", "metric_list": [{"metric": "acc"}]}
    results, samples = evaluate(subject, "compat_choice", CHOICES, task)
    model, tokenizer = subject.model(torch.float32), subject.tokenizer()
    error, right = 0.0, 0
    for row, sample in zip(CHOICES, samples, strict=True):
        own = []
        for choice, found in zip(row["choices"], sample["resps"], strict=True):
            ids = torch.tensor([tokenizer(f"{row['question']}{choice}").input_ids])  # with bos, as the harness does
            start = len(tokenizer(str(row["question"])).input_ids)
            scores = model(ids).logits.double().log_softmax(-1)[0, start - 1 : -1]
            answer = ids[0, start:]
            own.append(scores.gather(1, answer.unsqueeze(1)).sum())
            likelihood, is_greedy = found[0]
            error = max(error, close(torch.tensor(float(likelihood)), own[-1], 1e-4, f"log p of {choice!r}"))
            greedy = torch.equal(scores.argmax(-1), answer)
            require(str(is_greedy) == str(greedy), f"{choice!r} is greedy: {is_greedy}, expected {greedy}")
        right += int(own[0] > own[1])
    require(abs(results["acc,none"] - right / len(CHOICES)) < 1e-6, f"accuracy {results['acc,none']}")
    return f"{2 * len(CHOICES)} answers differ by {error:.0e}"


def rolling(subject: Subject) -> str:
    """Bits per byte of whole documents, one of them longer than the harness's default window."""
    tokenizer, long = subject.tokenizer(), TEXTS[1]
    while len(tokenizer(long).input_ids) <= 2048:
        long += " " + long
    texts = [*TEXTS, long]
    task = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    task |= {"metric_list": [{"metric": "bits_per_byte"}]}
    # The tokenizer's own bos would be predicted from the one that the harness puts before the text.
    options = {"add_bos_token": False, "max_length": 8192}
    results, _ = evaluate(subject, "compat_rolling", [{"text": text} for text in texts], task, **options)
    own = bits_per_byte(subject.model(torch.float32), tokenizer, texts)
    error = close(torch.tensor(results["bits_per_byte,none"]), torch.tensor(own.value), 1e-5, "bits per byte")
    return f"{own.value:.3f} bits per byte of {own.tokens} tokens, differs by {error:.0e}"


@torch.no_grad()
def generate_until(subject: Subject) -> str:
    """Texts in batches of two, up to a stop string, equal those generated one by one."""
    task = {"output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "", "target_delimiter": ""}
    task |= {"generation_kwargs": {"until": [STOP], "max_gen_toks": NEW, "do_sample": False}}
    task |= {"metric_list": [{"metric": "exact_match"}]}
    _, samples = evaluate(subject, "compat_until", CHOICES, task)
    model, tokenizer = subject.model(torch.float32, ends=True), subject.tokenizer()
    for row, sample in zip(CHOICES, samples, strict=True):
        ids = torch.tensor([tokenizer(str(row["question"])).input_ids])
        new = model.generate(ids, max_new_tokens=NEW, do_sample=False)[0, ids.shape[1] :]
        expected = tokenizer.decode(new, skip_special_tokens=True).split(STOP)[0]
        require(sample["resps"][0][0] == expected, f"{sample['resps'][0][0]!r}, expected {expected!r}")
    return f"{len(CHOICES)} texts equal"
