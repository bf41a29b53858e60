"""What an artifact says of itself, and the fingerprint over everything that could make it wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from compile.environment import mismatches
from compile.exporters.base import Accelerator, DType, ExportedGraph, ExportRequest, Fact

MANIFEST = "manifest.json"
FORMAT: Final = 1
_CHUNK = 1 << 20


class ArtifactError(ValueError):
    """An artifact that cannot be used; the message names the field or file."""


class MismatchError(ArtifactError):
    """An artifact made for something else; one line per field."""


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in path:
        raise ValueError("a path inside the artifact needed")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class FileRecord(_Strict):
    """One file: path inside the artifact, bytes, sha256 in hexadecimal."""

    path: RelativePath
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class GraphRecord(_Strict):
    """One graph and how it did against the eager model.

    Attributes:
        graph: what the exporter says.
        error: largest difference over largest value of the eager output; ``None``: not run.
        not_run: why not.
    """

    graph: ExportedGraph
    error: float | None = None
    not_run: str | None = None


class ModelRecord(_Strict):
    """The model: Hub id and commit, or ``sha256:…`` over a folder's contents."""

    source: str
    revision: str


class LoraRecord(_Strict):
    """The adapter in the weights of the graphs: its file's sha256, and the factor of its effect."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scale: float


class Manifest(_Strict):
    """Everything known about one artifact; published beside its files as ``manifest.json``."""

    format: Literal[1] = FORMAT
    fingerprint: str
    model: ModelRecord
    lora: LoraRecord | None = None
    accelerator: Accelerator
    height: int
    width: int
    batches: tuple[int, ...]
    vae_batch: int
    dtype: DType
    options: dict[str, str]
    environment: dict[str, Fact]
    graphs: tuple[GraphRecord, ...]
    files: tuple[FileRecord, ...]
    created: str
    seconds: dict[str, float]

    @property
    def tag(self) -> str:
        """The artifact's name in a registry."""
        rows = "_".join(map(str, self.batches))
        return (
            f"{self.accelerator}-{self.height}x{self.width}-b{rows}-{self.dtype}"
            f"-{self.fingerprint[:16]}"
        )

    def causes(self) -> tuple[ModelRecord, ExportRequest, dict[str, Fact], LoraRecord | None]:
        """What the fingerprint is made of."""
        request = ExportRequest(
            accelerator=self.accelerator,
            height=self.height,
            width=self.width,
            batches=self.batches,
            vae_batch=self.vae_batch,
            dtype=self.dtype,
            options=self.options,
        )
        return self.model, request, self.environment, self.lora

    def graph(self, component: str) -> list[ExportedGraph]:
        """The graphs of a component, smallest batch first."""
        found = [one.graph for one in self.graphs if one.graph.component == component]
        return sorted(found, key=lambda graph: graph.batch)

    def dump(self) -> str:
        """As JSON text."""
        return self.model_dump_json(indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a replica is about to run; fields as in ``Manifest``.

    ``None``: any will do; of ``lora``: none in the graphs.
    """

    model: ModelRecord
    accelerator: Accelerator
    height: int | None
    width: int | None
    dtype: DType | None
    environment: dict[str, Fact]
    lora: LoraRecord | None = None


def fingerprint(
    model: ModelRecord,
    request: ExportRequest,
    environment: dict[str, Fact],
    lora: LoraRecord | None = None,
) -> str:
    """Sha256, in hexadecimal, over all that an artifact was made from and with."""
    parts: dict[str, Any] = {
        "format": FORMAT,
        # A folder's path says nothing about what it holds.
        "model": model.revision if _is_folder(model) else [model.source, model.revision],
        "request": asdict(request),
        "environment": {name: asdict(fact) for name, fact in environment.items()},
    }
    if lora is not None:
        parts["lora"] = lora.model_dump()
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def parse(text: str, where: str) -> Manifest:
    """Read a manifest.

    Raises:
        ArtifactError: names the first field that is wrong.
    """
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "(top)"
        raise ArtifactError(f"{where}: {MANIFEST}: {field}: {first['msg']}") from None
    if manifest.fingerprint != fingerprint(*manifest.causes()):
        raise ArtifactError(
            f"{where}: {MANIFEST}: fingerprint: is not that of the fields; they were edited"
        )
    return manifest


def check(manifest: Manifest, wanted: Wanted) -> None:
    """Refuse an artifact that was made for something else.

    Raises:
        MismatchError: one line per field.
    """
    lines = []
    ours, theirs = wanted.model, manifest.model
    if not (_is_folder(ours) and _is_folder(theirs)) and ours.source != theirs.source:
        lines.append(f"model.source: made from {theirs.source}, here {ours.source}")
    if ours.revision != theirs.revision:
        lines.append(f"model.revision: made from {theirs.revision}, here {ours.revision}")
    for name in ("accelerator", "height", "width", "dtype"):
        made, here = getattr(manifest, name), getattr(wanted, name)
        if here is not None and made != here:
            lines.append(f"{name}: made for {made}, here {here}")
    if manifest.lora != wanted.lora:
        lines.append(f"lora: made with {_adapter(manifest.lora)}, here {_adapter(wanted.lora)}")
    lines += mismatches(manifest.environment, wanted.environment)
    if lines:
        raise MismatchError(f"artifact {manifest.tag} does not fit: " + "; ".join(lines))


def record_files(folder: Path) -> tuple[FileRecord, ...]:
    """Every file of a folder, but for the manifest itself."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        FileRecord(path=name, size=path.stat().st_size, sha256=sha256(path))
        for path in paths
        if (name := path.relative_to(folder).as_posix()) != MANIFEST
    )


def check_files(folder: Path, manifest: Manifest) -> None:
    """Every file that the manifest lists is there, whole and unchanged.

    Raises:
        ArtifactError: names the first file that is not.
    """
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            raise ArtifactError(f"artifact {manifest.tag}: {file.path}: missing")
        if (size := path.stat().st_size) != file.size:
            raise ArtifactError(
                f"artifact {manifest.tag}: {file.path}: {size} bytes, {file.size} expected"
            )
        if sha256(path) != file.sha256:
            raise ArtifactError(
                f"artifact {manifest.tag}: {file.path}: contents changed since it was published"
            )


def sha256(path: Path) -> str:
    """Of a file's contents, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _adapter(lora: LoraRecord | None) -> str:
    return "none" if lora is None else f"{lora.sha256[:12]} at scale {lora.scale:g}"


def _is_folder(model: ModelRecord) -> bool:
    return model.revision.startswith("sha256:")
