"""Puts a model into the package: `python scripts/package_model.py PUBLISHED QUANTISED`.

PUBLISHED is what `sioconv publish` has made of it: its card and provenance go in. QUANTISED is what `sioconv quantize`
has made: its weights and tokenizer go in. The folder's own code stays out, since the package is there.
"""

import shutil
import sys
from pathlib import Path

from sioconv.checksums import write_sums
from sioconv.files import atomic_folder
from sioconv.model.folder_code import FILE
from sioconv.model.in_package import NAME
from sioconv.publish.copies import THIS_COPY, without_missing_pictures

NOTE = f"""{THIS_COPY}
It is part of the package sioconv: its matrices have 8 bits (`sioconv quantize`), and there is no code in the folder,
since the package has it. `sioconv chat` and `sioconv serve` take it where no model is named.

この写しはパッケージ sioconv の一部です。行列は 8 ビットで(`sioconv quantize`)、
コードはパッケージにあるので入っていません。モデルを指定しない `sioconv chat` と `sioconv serve` が使います。
"""
LEFT_OUT = {FILE, "SHA256SUMS", "LICENSE-code", "timescales.svg"}


def main(published: Path, quantised: Path) -> None:
    """Writes the package's model folder anew."""
    import sioconv

    place = Path(sioconv.__file__).parent / "models" / NAME
    with atomic_folder(place) as folder:
        # Of files that both have, the quantised folder's are the ones that belong to its weights.
        for source in (published, quantised):
            for path in sorted(source.iterdir()):
                if path.is_file() and path.name not in LEFT_OUT:
                    shutil.copyfile(path, folder / path.name)
        card = folder / "README.md"
        text = without_missing_pictures(card.read_text(encoding="utf-8"), folder)
        card.write_text(text + NOTE, encoding="utf-8", newline="\n")
        write_sums(folder)
    print(f"{place}: {sum(path.stat().st_size for path in place.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
