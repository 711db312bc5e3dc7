"""Lists the licences of everything that the package needs, and checks them: `python scripts/licences.py`.

It writes docs/licences.md: every package of constraints.txt, and every one of the page's package-lock.json. What a
package says of itself counts: `License-Expression`, else its classifiers, else `License`. What isn't installed here is
fetched by pip, which needs a network; `--offline` keeps what the page says of it.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.metadata import PackageMetadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
# What classifiers and older fields call a licence, and its name in SPDX's list.
NAMES = {
    "MIT License": "MIT", "The MIT License (MIT)": "MIT", "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0", "Apache 2.0 License": "Apache-2.0", "Apache 2.0": "Apache-2.0",
    "BSD License": "BSD", "3-Clause BSD License": "BSD-3-Clause", "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "Other/Proprietary License": "Intel Simplified Software License",
}  # fmt: skip
# Licences that ask for a notice, or for nothing.
FREE = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Public Domain", "Unlicense", "Zlib",
}  # fmt: skip
# Licences that ask for more, and of what they are taken: as libraries that are installed beside ours, unchanged.
OTHERS = {
    "MPL-2.0": {"npm:axe-core", "certifi", "hypothesis", "orjson", "pathspec", "tqdm"},
    "LGPL-2.0-or-later": {"chardet"},
    "LGPL-3.0-only": {"pyte"},
    "Intel Simplified Software License": {"tbb", "tcmlib"},  # may be handed on unchanged, not taken apart
}


class Package(NamedTuple):
    """A line of the page."""

    name: str
    version: str
    licence: str
    use: str  # always, the extras that bring it, page or page, to build it


def main() -> None:
    """Writes the page. Ends with 1 where a licence is none of those above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offline", action="store_true", help="ask nobody about what isn't installed")
    offline = parser.parse_args().offline
    known = {package.name: package for package in listed()}
    found = [*of_python(known, offline), *of_the_page()]
    PAGE.write_text(page(found), encoding="utf-8")
    wrong = [package for package in found if not allowed(package)]
    for package in wrong:
        licence = package.licence or "no licence"
        print(f"{package.name} {package.version}: {licence}: read it, then add it to this script or leave the package")
    print(f"{PAGE.relative_to(ROOT)}: {len(found)} packages")
    sys.exit(bool(wrong))


def allowed(package: Package) -> bool:
    """Whether a licence is known to be free, or taken for this package with its conditions. `A OR B`: one is enough."""
    choices = re.sub(r"[()]", "", package.licence).split(" OR ")
    return any(all(_may_take(package.name, part) for part in choice.split(" AND ")) for choice in choices)


def _may_take(name: str, licence: str) -> bool:
    return licence in FREE or name in OTHERS.get(licence, ())


def constraints() -> dict[str, str]:
    """Name → version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(found.groups() for line in lines if (found := re.match(r"([\w.-]+)==([\w.+-]+)", line)))


def of_python(known: Mapping[str, Package], offline: bool) -> list[Package]:
    """What constraints.txt names."""
    versions = constraints()
    about = {name: facts for name, version in versions.items() if (facts := installed(name, version)) is not None}
    left = [name for name in versions if name not in about]
    if left and not offline:
        about |= fetched(left, versions)
    uses = uses_of(about)
    packages = []
    for name, version in versions.items():
        if name in about:
            packages.append(Package(name, version, licence_of(about[name]), uses.get(canonical(name), "others")))
        elif name in known:
            packages.append(known[name]._replace(version=version))
        else:
            sys.exit(f"{name} {version} isn't installed: install it, or run this where there is a network")
    return packages


def installed(name: str, version: str) -> PackageMetadata | None:
    """What an installed package says of itself; None where it isn't here in this version."""
    try:
        facts = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    return facts if facts["Version"].partition("+")[0] == version else None


def fetched(names: Iterable[str], versions: Mapping[str, str]) -> dict[str, PackageMetadata]:
    """What packages say of themselves that pip brings into a folder which is removed afterwards."""
    wanted = [f"{name}=={versions[name]}" for name in names]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", folder, *wanted]
        if subprocess.run(command).returncode:
            sys.exit(f"pip can't fetch {', '.join(wanted)}: try --offline")
        there = {canonical(found.metadata["Name"]): found.metadata for found in metadata.distributions(path=[folder])}
    return {name: there[canonical(name)] for name in names}


def licence_of(facts: PackageMetadata) -> str:
    """The licence in SPDX's words, as far as they fit."""
    if facts["License-Expression"]:
        return str(facts["License-Expression"])
    kinds = [kind for kind in facts.get_all("Classifier") or [] if kind.startswith("License :: ")]
    kinds = [kind.rpartition(" :: ")[2] for kind in kinds] or [(facts["License"] or "").strip().partition("\n")[0]]
    return " OR ".join(dict.fromkeys(NAMES.get(kind, kind) for kind in kinds))


def uses_of(about: Mapping[str, PackageMetadata]) -> dict[str, str]:
    """Package → what it is needed for: `always`, else the extras of ours that bring it."""
    own = metadata.metadata("sioconv")
    needs = {canonical(name): _requirements(facts) for name, facts in about.items()}
    first = _requirements(own)
    found: dict[str, list[str]] = {}
    for extra in ["", *(own.get_all("Provides-Extra") or [])]:
        left = [(need, extra) for need in first if bool(extra) == ("extra" in str(need.marker))]
        seen: set[tuple[str, str]] = set()
        while left:
            need, within = left.pop()
            if need.marker is not None and not need.marker.evaluate({"extra": within}):
                continue
            name = canonical(need.name)
            for part in ("", *need.extras):
                if (name, part) not in seen:
                    seen.add((name, part))
                    left += [(other, part) for other in needs.get(name, [])]
        for name in {name for name, _ in seen}:
            found.setdefault(name, []).append(extra or "always")
    return {name: "always" if "always" in uses else ", ".join(sorted(uses)) for name, uses in found.items()}


def _requirements(facts: PackageMetadata) -> list[Requirement]:
    return [Requirement(text) for text in facts.get_all("Requires-Dist") or []]


def canonical(name: str) -> str:
    """The name in the one spelling that indexes compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def of_the_page() -> list[Package]:
    """What the page is built from; what isn't for development is in its JavaScript."""
    lock = json.loads((ROOT / "page" / "package-lock.json").read_text(encoding="utf-8"))
    found = {}
    for place, facts in lock["packages"].items():
        name = place.partition("node_modules/")[2]
        # Packages for one system each are parts of esbuild and TypeScript.
        if name and not name.startswith(("@esbuild/", "@typescript/")):
            use = "page, to build it" if facts.get("dev") or facts.get("optional") else "page"
            found[name] = Package(f"npm:{name}", facts["version"], facts.get("license", ""), use)
    return list(found.values())


def page(packages: Iterable[Package]) -> str:
    """The page's text."""
    rows = "".join(f"| {' | '.join(package)} |\n" for package in packages)
    return f"{HEAD}{rows}"


def listed() -> list[Package]:
    """The packages that the page names."""
    if not PAGE.is_file():
        return []
    rows = PAGE.read_text(encoding="utf-8").partition("|---|---|---|---|\n")[2].splitlines()
    return [Package(*(cell.strip() for cell in row[1:-1].split("|"))) for row in rows]


HEAD = """\
# Licences of what this needs

Every package of constraints.txt and of the page's package-lock.json, by what it says of itself; written and checked by
`python scripts/licences.py`. `make audit` asks for known weaknesses of all of them, which needs a network.

- **Nothing of the Python packages is in the wheel**: pip installs them beside it. Most ask for a notice or for nothing.
  Three kinds ask for more: MPL-2.0 and LGPL for the source of changes to their own files, of which there are none;
  Intel's licence of `tbb` and `tcmlib` lets them be handed on unchanged.
- **Of the page's packages** those with the use `page` are in the JavaScript of the wheel, or are parts of ONNX Runtime
  Web; their notices are in `page/NOTICE`, which is in the wheel and in an exported page too.
- The text and the model of the package have licences of their own: [NOTICE](../NOTICE).

| package | version | licence | for |
|---|---|---|---|
"""

if __name__ == "__main__":
    main()
