"""What arms on one text share, made before they are trained: tokenizer, shards and held-out text."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.speedrun.arms import ROOT, TRACKS, Arm
from sioconv.evaluate.heldout import Texts, heldout_texts
from sioconv.files import atomic_write
from sioconv.progress import say
from sioconv.recipe.schema import Recipe, load_recipe
from sioconv.run.stages import make_data

HELDOUT = "heldout.json"


def recipe_of(arm: Arm) -> Recipe:
    """The arm's recipe. Its run is named after its text, so that arms on the same text share the folder."""
    files = [str(ROOT / TRACKS[arm.track])]
    recipe = load_recipe(files, arm.words)
    text = json.dumps([asdict(recipe.tokenizer), asdict(recipe.data)], sort_keys=True)
    return load_recipe(files, [*arm.words, f"--name=text-{hashlib.sha256(text.encode()).hexdigest()[:12]}"])


def prepare(arms: Sequence[Arm], work: Path) -> None:
    """Makes what isn't there yet of the texts of all arms, in runs under `work`."""
    work.mkdir(parents=True, exist_ok=True)
    with working_in(work):
        for recipe in {recipe.name: recipe for recipe in map(recipe_of, arms)}.values():
            if (recipe.folder / HELDOUT).exists():
                continue
            say(f"text {recipe.name}")
            make_data(recipe)
            with atomic_write(recipe.folder / HELDOUT) as temporary:
                temporary.write_text(json.dumps(heldout_texts(recipe.data), ensure_ascii=False), encoding="utf-8")


def read_heldout(recipe: Recipe) -> Texts:
    """The held-out documents by source, as `prepare` has left them."""
    texts: Texts = json.loads((recipe.folder / HELDOUT).read_text(encoding="utf-8"))
    return texts


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Relative paths, as those of runs, are below `folder`."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
