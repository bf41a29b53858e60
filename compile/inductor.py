"""AOTInductor: a module to a package of native code without weights, and back with them.

The weights stay where they are: every graph of a part is given the very tensors of the loaded
module. So one copy serves all batch sizes, a package is a few megabytes, and whatever is done to
the module's weights in place (a LoRA fused) holds for the graphs too.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from compile.manifest import ArtifactError

_SPEC = ".weights.json"
_CONSTANTS = ".constants.safetensors"


def compile_package(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    path: Path,
    configs: Mapping[str, Any],
) -> None:
    """Compile for static shapes and write the package.

    Beside ``path`` go two files per part (not per batch), named after ``path`` up to its last
    ``-``: what weights the code expects (names, dtypes, shapes, strides), and constants that are
    no weights of the module, if there are any.

    Args:
        module: without gradients, on its device.
        inputs: examples; their shapes become the graph's.
        path: of the ``.pt2`` file, ``<part>-<batch>.pt2``.
        configs: Inductor's, over the ones needed here.
    """
    with torch.no_grad(), warnings.catch_warnings():
        # torch.export copies its own deprecated objects.
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        program = torch.export.export(module, tuple(inputs))
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={
                "aot_inductor.package_constants_in_so": False,
                # Else weights of up to eight numbers are written into the code.
                "always_keep_tensor_constants": True,
                # Else the number of threads is that of the machine that compiled.
                "cpp.dynamic_threads": True,
                **configs,
            },
        )
    held = _tensors(module)
    names = _open(path).get_constant_fqns()
    spec = {name: _describe(held[name]) for name in sorted(names) if name in held}
    stem = _stem(path)
    stem.with_suffix(_SPEC).write_text(json.dumps(spec, indent=0) + "\n", encoding="utf-8")
    lifted = {
        name: tensor.detach().contiguous().cpu()
        for name, tensor in program.constants.items()
        if name in names and name not in held and isinstance(tensor, torch.Tensor)
    }
    if lifted:
        save_file(lifted, str(stem.with_suffix(_CONSTANTS)))


class PackagedGraph:
    """A package, loaded, with a module's weights.

    Args:
        path: the ``.pt2`` file.
        module: wrapped as it was when compiled; its tensors are used, not copied. One whose
            strides differ from those compiled for is laid out anew, in the module too.

    Raises:
        ArtifactError: the module's weights are not those the code was compiled for.
    """

    def __init__(self, path: Path, module: torch.nn.Module) -> None:
        stem = _stem(path)
        spec = json.loads(stem.with_suffix(_SPEC).read_text(encoding="utf-8"))
        held = _tensors(module)
        for name, wanted in spec.items():
            if name not in held:
                raise ArtifactError(f"{path.name}: weight {name}: the model has none")
            _lay_out(held[name], wanted, f"{path.name}: weight {name}")
        constants = {name: held[name] for name in spec}
        extra = stem.with_suffix(_CONSTANTS)
        if extra.is_file():
            device = next(iter(held.values())).device
            constants |= {n: x.to(device) for n, x in load_file(str(extra)).items()}
        self._graph = _open(path)
        missing = set(self._graph.get_constant_fqns()) - set(constants)
        if missing:
            raise ArtifactError(f"{path.name}: no weights for {', '.join(sorted(missing))}")
        self._graph.load_constants(constants, check_full_update=True, user_managed=True)
        # The graph has their addresses only.
        self._kept = constants

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run it; shapes and dtypes must be those compiled for."""
        out: Any = self._graph(*inputs)
        return tuple(out)


def _open(path: Path) -> Any:
    """Load a package without ``aoti_load_package``'s question for the processor's kind.

    To answer it, torch compiles trial programs: eight seconds, and a compiler in every image. The
    answer would only be logged, and ``compile.environment`` has compared instruction sets already.
    """
    from torch._inductor.package import package

    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    return package.AOTICompiledModel(loader)  # type: ignore[attr-defined]


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    # Under every name of a shared weight: the graph has any one of them.
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _stem(path: Path) -> Path:
    return path.with_name(path.name.rpartition("-")[0])


def _describe(tensor: torch.Tensor) -> list[Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return [dtype, list(tensor.shape), list(tensor.stride())]


def _lay_out(tensor: torch.Tensor, wanted: list[Any], what: str) -> None:
    found = _describe(tensor)
    if found[:2] != wanted[:2]:
        raise ArtifactError(
            f"{what}: compiled for {wanted[0]} {wanted[1]}, the model has {found[0]} {found[1]}"
        )
    if found[2] != wanted[2]:
        fresh = torch.empty_strided(wanted[1], wanted[2], dtype=tensor.dtype, device=tensor.device)
        tensor.data = fresh.copy_(tensor)
