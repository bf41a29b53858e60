"""A backend that runs fixed batch sizes: compiled for each, smaller ones where memory is short."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

import torch

from deployments.backends.base import DenoiseBatch
from deployments.backends.buckets import Buckets, doubling
from deployments.backends.compiled import Compile, Compiled, Record, freeze
from deployments.backends.memory import Memory, measure_room
from deployments.backends.pipeline import PipelineBackend, Tensors, unet_inputs
from deployments.engine.batch import pad, pad_rows
from deployments.engine.calibration import blank_batch
from deployments.engine.transfer import Pace
from deployments.lora.loading import Adapters
from deployments.model import Pipeline
from deployments.options import Size

logger = logging.getLogger(__name__)

# More pictures at once make decoding no cheaper per picture and its memory larger.
MOST_DECODED = 4


class BucketedBackend(PipelineBackend):
    """Runs every step with one of a few numbers of rows, idle ones zero.

    Args:
        pipe: loaded pipeline; moved to ``device``, cast and laid out ``channels_last`` here.
        device: of the model.
        dtype: of the model.
        most_rows: rows of the largest bucket, if they fit the memory.
        bucket_rows: the buckets, where not 1, 2, 4, …
        deterministic: one bucket of exactly ``most_rows``, pictures decoded one by one.
        sizes: picture sizes (width, height) to compile for; empty for the model's own.
        memory: of the device.
        compile_it: compiles the UNet and the VAE's decoder; ``None`` for neither.
        record: makes graphs of compiled calls; ``None`` for none.
        read: waits for the device.
        adapters: what was loaded into the pipeline beside the model.
    """

    def __init__(
        self,
        pipe: Pipeline,
        *,
        device: torch.device,
        dtype: torch.dtype,
        most_rows: int,
        deterministic: bool,
        sizes: Sequence[Size],
        memory: Memory,
        compile_it: Compile | None,
        record: Record | None = None,
        read: Callable[[], None] = lambda: None,
        adapters: Adapters | None = None,
        bucket_rows: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            pipe,
            device=device,
            dtype=dtype,
            fixed_rows=most_rows if deterministic else None,
            decode_batch=1,
            overlap_decode=True,
            adapters=adapters,
        )
        for part in (pipe.unet, pipe.vae):
            part.to(memory_format=torch.channels_last)
        self._memory = memory
        self._pace = Pace(device)
        height, width = self.own_size
        self.sizes: tuple[Size, ...] = tuple(sizes) or ((width, height),)
        self.unet = Compiled(self.predict, compile_it, record, read)
        cell = self.facts.scale_factor
        self._graphed = set() if self.unet.off else {(h // cell, w // cell) for w, h in self.sizes}
        # Decoding runs beside the steps, where recorded graphs must not share memory: none here.
        self.vae = Compiled(self.to_pixels, compile_it)
        reference = max(self.sizes, key=lambda size: size[0] * size[1])
        with torch.inference_mode():
            room = measure_room(
                memory,
                lambda rows: self.predict(*unet_inputs(self._blank(rows, reference))),
                lambda n: self.to_pixels(self._blank_latents(n, reference)),
                most_rows=most_rows,
                most_pictures=1 if deterministic else MOST_DECODED,
            )
        if deterministic and room.rows < most_rows:
            raise RuntimeError(
                f"max_rows: {most_rows} rows do not fit the device's memory ({room.rows} do), and"
                " a deterministic pool always runs all of them: lower engine.max_rows"
            )
        fitting = [rows for rows in bucket_rows or () if rows <= room.rows] or doubling(room.rows)
        self.rows = Buckets([most_rows] if deterministic else fitting, memory.release)
        self.pictures = Buckets(doubling(room.pictures), memory.release)
        self._warm_up()

    @torch.inference_mode()
    def denoise(self, batch: DenoiseBatch) -> torch.Tensor:
        """One UNet call over all rows, or several where the memory asks for it."""
        padded = self._fixed(batch.latents)
        if padded and self.facts.loras and batch.adapters is None:
            # One graph for all: without adapters it is as with none of them.
            batch = dataclasses.replace(
                batch, adapters=batch.timesteps.new_zeros(len(batch.timesteps), dtype=torch.long)
            )

        def run(first: int, count: int, size: int) -> torch.Tensor:
            rows = batch.each(lambda x: x[first : first + count])
            return self.unet(*_laid_out(pad(rows, size) if padded else rows))

        out = self.rows.run(batch.latents.shape[0], run)
        self._pace.keep()
        return out

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See ``PipelineBackend``; in the buckets of the decoder."""
        padded = self._fixed(latents)

        def run(first: int, count: int, size: int) -> torch.Tensor:
            some = latents[first : first + count]
            return self.vae(_last(pad_rows(some, size) if padded else some))

        return self.pictures.run(latents.shape[0], run)

    def _fixed(self, latents: torch.Tensor) -> bool:
        """Whether there are graphs of fixed batch sizes for these latents' size."""
        return self.facts.fixed_rows is not None or tuple(latents.shape[2:]) in self._graphed

    def _blank(self, rows: int, size: Size) -> DenoiseBatch:
        width, height = size
        return blank_batch(self.facts, self.encode_prompt(""), height, width, rows)

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Every bucket once, the largest first: what comes after finds its memory there."""
        for size in () if self.unet.off else self.sizes:
            for buckets, warm in ((self.rows, self._warm_unet), (self.pictures, self._warm_vae)):
                for count in reversed(buckets.sizes):
                    try:
                        warm(count, size)
                    except torch.OutOfMemoryError:
                        if not buckets.drop(count):
                            raise
                        self._memory.release()
        self.facts = dataclasses.replace(
            self.facts, decode_batch=self.pictures.largest, max_rows=max(2, self.rows.largest)
        )
        freeze()

    def _warm_unet(self, rows: int, size: Size) -> None:
        self.unet.warm(*_laid_out(self._blank(rows, size)))

    def _warm_vae(self, count: int, size: Size) -> None:
        self.vae.warm(_last(self._blank_latents(count, size)))

    def _blank_latents(self, count: int, size: Size) -> torch.Tensor:
        """As the decoder takes them: without what a mask-conditioned UNet sees beside them."""
        latents = self._blank(count, size).latents[:, : self.facts.latent_channels]
        return latents.to(self.pipe.vae.dtype)


def _laid_out(batch: DenoiseBatch) -> Tensors:
    """The UNet's inputs in the one form that graphs are made for."""
    latents, *others = unet_inputs(batch)
    return (
        None if latents is None else _last(latents),
        *(None if x is None else _plain(x.contiguous()) for x in others),
    )


def _last(latents: torch.Tensor) -> torch.Tensor:
    return _plain(latents.contiguous(memory_format=torch.channels_last))


def _plain(x: torch.Tensor) -> torch.Tensor:
    """As made in inference mode: to torch.compile another tensor is another kind of input."""
    return x if x.is_inference() else x.clone()
