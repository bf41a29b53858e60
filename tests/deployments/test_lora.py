"""LoRA adapters against stock diffusers with ``load_lora_weights``, alone and in mixed batches."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from deployments.backends.bucketed import BucketedBackend
from deployments.backends.cpu import create
from deployments.backends.pipeline import PipelineBackend
from deployments.engine.trajectory import RefusedRequestError
from deployments.lora.layers import LoraLayer, Pair, Selection
from deployments.lora.loading import add_adapters
from deployments.messages import ImageFailure, ImageRequest, ImageResult
from deployments.model import load_pipeline
from deployments.model_info import ModelError
from deployments.options import LoraOptions, ReplicaOptions
from deployments.picture import recipe
from deployments.replica import PoolReplica
from tests.deployments.harness import Bench, ask, solo
from tests.deployments.test_bucketed import FakeMemory, traced
from tests.deployments.test_oracle import assert_same_picture, far, stock
from tests.deployments.tiny_models import Kind
from tests.hub_server import TOKEN, add_folder, running_hub

ROOT = Path(__file__).resolve().parents[2]

UNET = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
OTHERS = ["conv1", "conv2", "conv_shortcut", "conv_in", "time_emb_proj", "downsamplers.0.conv"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]
# Ranks, scales and layers differ; the first leaves the text encoder alone.
ADAPTERS: dict[str, dict[str, Any]] = {
    "flat": {"r": 2, "lora_alpha": 4, "target_modules": UNET},
    "wild": {"r": 3, "lora_alpha": 3, "target_modules": UNET + OTHERS},
}
SCALES = {"flat": 0.8, "wild": 1.0}


def write(kind: Kind, model: Path, name: str, folder: Path, **more: Any) -> Path:
    """Save a random adapter as diffusers does."""
    pipe = load_pipeline(str(model), None)
    torch.manual_seed(len(name) + sum(map(ord, name)))
    networks = {"unet": pipe.unet}
    if name == "wild":
        networks["text_encoder"] = pipe.text_encoder
        if kind == "sdxl":
            networks["text_encoder_2"] = pipe.text_encoder_2
    layers: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for part, network in networks.items():
        settings = ADAPTERS[name] if part == "unet" else ADAPTERS[name] | {"target_modules": TEXT}
        config = LoraConfig(**(settings | more), init_lora_weights=False)
        network.add_adapter(config)
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(network)
        metadata[f"{part}_lora_adapter_metadata"] = config.to_dict()
    type(pipe).save_lora_weights(str(folder), **layers, **metadata)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _released_peft() -> Iterator[None]:
    """transformers 5.24 refuses every peft there is (it asks for 0.22); the oracle needs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.integrations.peft.check_peft_version", lambda **_: None)
        yield


LoraFolder = Callable[[Kind, str], Path]


@pytest.fixture(scope="module")
def lora_folder(
    model_folder: Callable[[Kind], Path], tmp_path_factory: pytest.TempPathFactory
) -> LoraFolder:
    root = tmp_path_factory.mktemp("loras")
    return cache(lambda kind, name: write(kind, model_folder(kind), name, root / f"{kind}-{name}"))


@pytest.fixture(scope="module")
def options(lora_folder: LoraFolder) -> Callable[[Kind], list[LoraOptions]]:
    return lambda kind: [
        LoraOptions(name=name, source=str(lora_folder(kind, name)), scale=SCALES[name])
        for name in ADAPTERS
    ]


def on_cpu(pipe: Any, loras: list[LoraOptions], fuse: bool = False) -> PipelineBackend:
    return PipelineBackend(
        pipe,
        device=torch.device("cpu"),
        dtype=torch.float32,
        fixed_rows=None,
        decode_batch=4,
        overlap_decode=False,
        adapters=add_adapters(pipe, loras, fuse),
    )


def truth(model: Path, loras: list[LoraOptions], request: ImageRequest) -> Any:
    """Stock diffusers with the request's adapter loaded through peft, and nothing else."""
    backend = on_cpu(load_pipeline(str(model), None), [])
    for lora in loras:
        if lora.name == request.lora:
            backend.pipe.load_lora_weights(lora.source, adapter_name=lora.name)
            backend.pipe.set_adapters([lora.name], [lora.scale])
    return stock(backend, request)


def mixed(kind: Kind) -> list[ImageRequest]:
    """With and without adapters, guided and not, other schedulers and step counts."""
    return [
        ask(
            prompt="a circle",
            negative_prompt="blurry" if i % 2 else "",
            lora=lora,
            seed=i,
            num_inference_steps=3 + i % 3,
            guidance_scale=1.0 if i == 3 else 4.0,
            scheduler=("euler", "ddim", "dpmpp_2m")[i % 3],
        )
        for i, lora in enumerate([None, "flat", "wild", "wild", "flat", None])
    ]


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_rows_of_different_adapters_share_a_batch_and_equal_stock(
    kind: Kind,
    model_folder: Callable[[Kind], Path],
    options: Callable[[Kind], list[LoraOptions]],
) -> None:
    loras = options(kind)
    backend = on_cpu(load_pipeline(str(model_folder(kind)), None), loras)
    assert backend.facts.loras == ("flat", "wild")
    bench, asked = Bench(backend, max_rows=16), mixed(kind)
    sizes: list[int] = []
    inner = backend.predict
    backend.predict = lambda x, *others: sizes.append(x.shape[0]) or inner(x, *others)
    for request in asked:
        bench.submit(request)
    bench.run()
    assert max(sizes) == 11  # all at once
    seen = []
    for request in asked:
        latents, pixels = truth(model_folder(kind), loras, request)
        assert far(bench.latents[request.request_id], latents) <= 1e-5, request
        assert_same_picture(bench.picture(request), pixels, request)
        seen.append(latents)
    # The adapters do something, and not the same.
    plain = truth(model_folder(kind), loras, ask(**recipe_of(asked[1], lora=None)))[0]
    other = truth(model_folder(kind), loras, ask(**recipe_of(asked[1], lora="wild")))[0]
    assert far(seen[1], plain) > 1e-2
    assert far(seen[1], other) > 1e-2


def recipe_of(request: ImageRequest, **changes: Any) -> dict[str, Any]:
    fields = recipe(request, "m", "r")
    return {k: v for k, v in fields.items() if not k.startswith("model")} | changes


def test_without_adapters_in_the_batch_nothing_is_added(
    model_folder: Callable[[Kind], Path], options: Callable[[Kind], list[LoraOptions]]
) -> None:
    backend = on_cpu(load_pipeline(str(model_folder("sd1")), None), options("sd1"))
    plain = on_cpu(load_pipeline(str(model_folder("sd1")), None), [])
    request = ask()
    assert torch.equal(solo(backend, request)[0], solo(plain, request)[0])
    assert backend.adapters.unet.index is None


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_fused_adapter_is_in_every_picture(
    kind: Kind,
    model_folder: Callable[[Kind], Path],
    options: Callable[[Kind], list[LoraOptions]],
) -> None:
    loras = options(kind)
    backend = on_cpu(load_pipeline(str(model_folder(kind)), None), loras[1:], fuse=True)
    assert (backend.facts.loras, backend.facts.fused_lora) == ((), "wild")
    assert not any(isinstance(one, LoraLayer) for one in backend.pipe.unet.modules())
    request = ask(lora="wild", scheduler="euler")
    latents, pixels = truth(model_folder(kind), loras, request)
    got = solo(backend, request)
    assert far(got[0], latents) <= 1e-5
    assert_same_picture(got[1], pixels, request)
    with pytest.raises(RefusedRequestError, match=r"lora: None .*wild"):
        solo(backend, ask())


def test_compiled_buckets_serve_any_mix_with_one_graph(
    model_folder: Callable[[Kind], Path], options: Callable[[Kind], list[LoraOptions]]
) -> None:
    from torch._dynamo.utils import counters

    loras = options("sd1")
    counters.clear()
    pipe = load_pipeline(str(model_folder("sd1")), None)
    backend = BucketedBackend(
        pipe,
        device=torch.device("cpu"),
        dtype=torch.float32,
        most_rows=8,
        deterministic=True,
        sizes=(),
        memory=FakeMemory(),
        compile_it=traced,
        adapters=add_adapters(pipe, loras, fused=False),
    )
    graphs = counters["stats"]["unique_graphs"]
    torch.compiler.set_stance("default")  # else what would be compiled runs eagerly, unseen
    bench, asked = Bench(backend), [*mixed("sd1"), ask(seed=9)]
    for request in asked:
        bench.submit(request)
    bench.run()
    bench.engine.close()
    for request in asked:
        latents, _ = truth(model_folder("sd1"), loras, request)
        assert far(bench.latents[request.request_id], latents) <= 1e-5, request
    assert counters["stats"]["unique_graphs"] == graphs == 2


def test_the_replica_loads_what_its_options_say_and_refuses_others(
    model_folder: Callable[[Kind], Path], options: Callable[[Kind], list[LoraOptions]]
) -> None:
    backend = create(
        ReplicaOptions(
            pool="cpu",
            accelerator="cpu",
            framework="cpu",
            model_source=str(model_folder("sd1")),
            loras=tuple(options("sd1")),
            threads=1,
        )
    )
    assert backend.facts.loras == ("flat", "wild")
    bench = Bench(backend)
    with pytest.raises(RefusedRequestError, match=r"lora: 'other' .*flat, wild"):
        bench.submit(ask(lora="other"))


def test_a_replica_with_a_fused_adapter_starts_and_answers_to_its_name(
    model_folder: Callable[[Kind], Path], options: Callable[[Kind], list[LoraOptions]]
) -> None:
    replica = PoolReplica(
        ReplicaOptions(
            pool="cpu",
            accelerator="cpu",
            framework="cpu",
            model_source=str(model_folder("sd1")),
            loras=tuple(options("sd1")[1:]),
            fuse_lora=True,
            threads=1,
            max_rows=2,
        )
    )
    try:
        answers = [asyncio.run(replica.generate(ask(lora=lora))) for lora in ("wild", None)]
    finally:
        replica.service.stop()
    assert isinstance(answers[0], ImageResult)
    assert isinstance(answers[1], ImageFailure)
    assert answers[1].message == "lora: None is not here; this replica has wild"


def test_an_adapter_is_fetched_from_the_hub(
    lora_folder: LoraFolder, model_folder: Callable[[Kind], Path], tmp_path: Path
) -> None:
    """One file of one commit, with the token; a client in a process of its own, by its settings."""
    with running_hub() as hub:
        add_folder(hub, "someone/lora", lora_folder("sd1", "flat"))
        name = "pytorch_lora_weights.safetensors"
        commit = hub.repos["someone/lora"].branches["main"]
        lora = LoraOptions(name="x", source="someone/lora", revision=commit, weight_name=name)
        done = loaded(model_folder("sd1"), lora, tmp_path, hub.url)
        assert done.stdout.split() == ["x"], done.stderr
        assert hub.fetched() == [name]
        assert hub.tokens == {f"Bearer {TOKEN}"}
        missing = lora.model_copy(update={"weight_name": "other.safetensors"})
        done = loaded(model_folder("sd1"), missing, tmp_path, hub.url)
    assert done.returncode == 1
    assert "ModelError: loras.x: 'someone/lora' does not load: fetching other.saf" in done.stderr
    assert "HTTP 404" in done.stderr


FROM_HUB = """
import sys
from deployments.lora.loading import add_adapters
from deployments.model import load_pipeline
from deployments.model_info import ModelError
from deployments.options import LoraOptions
try:
    lora = LoraOptions.model_validate_json(sys.argv[2])
    print(*add_adapters(load_pipeline(sys.argv[1], None), [lora], False).names)
except ModelError as error:
    sys.exit(f"ModelError: {error}")
"""


def loaded(
    model: Path, lora: LoraOptions, home: Path, url: str
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    ours = {"HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", FROM_HUB, str(model), lora.model_dump_json()],
        cwd=ROOT,
        env=clean | ours | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_the_recipe_names_the_adapter() -> None:
    assert recipe(ask(lora="flat"), "m", "r")["lora"] == "flat"
    assert "lora" not in recipe(ask(), "m", "r")


def one(folder: Path, **more: Any) -> list[LoraOptions]:
    return [LoraOptions(name="x", source=str(folder), **more)]


def test_files_that_are_not_one_safetensors_are_refused_by_name(
    lora_folder: LoraFolder, model_folder: Callable[[Kind], Path], tmp_path: Path
) -> None:
    pipe = load_pipeline(str(model_folder("sd1")), None)
    with pytest.raises(ModelError, match=r"loras\.x: .*holds no \.safetensors"):
        add_adapters(pipe, one(tmp_path), False)
    torch.save({}, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(ModelError, match=r"'pytorch_lora_weights\.bin'.*never read"):
        add_adapters(pipe, one(tmp_path), False)
    with pytest.raises(ModelError, match=r"no 'pytorch_lora_weights\.bin'"):
        add_adapters(pipe, one(tmp_path, weight_name="pytorch_lora_weights.bin"), False)
    data = (lora_folder("sd1", "flat") / "pytorch_lora_weights.safetensors").read_bytes()
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=r"weight_name to one of a\.safetensors, b\.safetensors"):
        add_adapters(pipe, one(tmp_path), False)
    assert add_adapters(pipe, one(tmp_path, weight_name="b.safetensors"), False).names == ("x",)
    with pytest.raises(ModelError, match=r"weight_name is None"):
        add_adapters(pipe, [LoraOptions(name="x", source="someone/lora", revision="r")], False)


def test_an_adapter_of_another_model_is_refused(
    lora_folder: LoraFolder, model_folder: Callable[[Kind], Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    pipe = load_pipeline(str(model_folder("sd1")), None)
    with pytest.raises(ModelError, match=r"loras\.x: .*does not go with the model"):
        add_adapters(pipe, one(lora_folder("sdxl", "flat")), False)
    pipe = load_pipeline(str(model_folder("sd1")), None)
    save_file({"nothing.weight": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"loras\.x: "):
        add_adapters(pipe, one(tmp_path), False)
    (tmp_path / "a.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match=r"loras\.x: "):
        add_adapters(pipe, one(tmp_path), False)


def test_what_rows_cannot_choose_is_refused_unless_fused(
    model_folder: Callable[[Kind], Path], tmp_path: Path
) -> None:
    folder = write("sd1", model_folder("sd1"), "flat", tmp_path / "dora", use_dora=True)
    pipe = load_pipeline(str(model_folder("sd1")), None)
    with pytest.raises(ModelError, match=r"loras\.x: .*DoRA.*fuse_lora: true"):
        add_adapters(pipe, one(folder), False)


def test_layers_by_hand() -> None:
    base, selection = torch.nn.Linear(3, 2), Selection()
    down, up = torch.randn(1, 3), torch.randn(2, 1)
    layer = LoraLayer(base, [None, Pair(down, up, 0.5)], selection)
    x = torch.randn(3, 4, 3)
    assert torch.equal(layer(x), base(x))
    selection.index = torch.tensor([0, 1, 2])
    want = base(x)
    want[2] += 0.5 * x[2] @ down.T @ up.T
    assert torch.allclose(layer(x), want, atol=1e-6)
    flat = layer(x[:, 0])
    assert torch.allclose(flat, want[:, 0], atol=1e-6)
