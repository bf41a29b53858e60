"""For the image builds: which packages the service needs, and whether the pinned ones are in.

``packages.py list pyproject.toml [EXTRA...]`` prints the dependencies, one a line.
``packages.py check constraints.txt`` fails on a version that is not the pinned one, and on the
placeholders that PyPI has under the Neuron SDK's names.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)")
# What the placeholders' modules say instead of being importable.
_PLACEHOLDER = "WRONG PACKAGE"


def wanted(pyproject: Path, extras: list[str]) -> list[str]:
    """The project's dependencies and those of ``extras``.

    Raises:
        SystemExit: there is no such extra.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    unknown = sorted(set(extras) - set(optional))
    if unknown:
        raise SystemExit(f"no extra named {', '.join(unknown)}; there are {', '.join(optional)}")
    return [*project["dependencies"], *(one for extra in extras for one in optional[extra])]


def problems(constraints: Path) -> list[str]:
    """Installed packages that are not the pinned ones, or placeholders."""
    found = []
    for line in constraints.read_text(encoding="utf-8").splitlines():
        pin = _PIN.fullmatch(line.split("#")[0].strip())
        if pin is None:
            continue
        try:
            there = metadata.distribution(pin["name"])
        except metadata.PackageNotFoundError:
            continue  # for other uses of the same file, such as tests
        # A build's label (2.13.0+cpu) is the same version.
        if pin["version"] not in (there.version, there.version.split("+")[0]):
            found.append(f"{pin['name']} {there.version} is installed, {pin['version']} is pinned")
        if is_placeholder(there):
            found.append(
                f"{pin['name']} {there.version} is PyPI's placeholder: the package index of the"
                " Neuron SDK was not used"
            )
    return found


def is_placeholder(there: metadata.Distribution) -> bool:
    """Whether one of the package's own files says that it is the wrong package."""
    tops = [file for file in there.files or () if file.name == "__init__.py"]
    return any(_PLACEHOLDER in _text(Path(str(file.locate()))) for file in tops)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def main(argv: list[str]) -> None:
    """See the module.

    Raises:
        SystemExit: on a wrong call or a wrong package.
    """
    match argv:
        case ["list", pyproject, *extras]:
            print("\n".join(wanted(Path(pyproject), extras)))
        case ["check", constraints]:
            wrong = problems(Path(constraints))
            if wrong:
                raise SystemExit("\n".join(wrong))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
