"""LitServe with its dynamic batching; run as a module with the port as its argument."""

from __future__ import annotations

import sys

import litserve
from fastapi import Response

from benchmarks.peers.contestants import COLLECT_S, GATHER
from benchmarks.prompt import Prompt, timing


class Painter(litserve.LitAPI):
    """Collects up to ``GATHER`` requests, then runs them to their end."""

    def setup(self, device: str) -> None:
        """In the worker process, the only one that needs torch."""
        from benchmarks.stock import paint_mixed, start

        start()
        self._paint = paint_mixed

    def decode_request(self, request: dict[str, object]) -> Prompt:
        """One request."""
        return Prompt.model_validate(request)

    def batch(self, inputs: list[Prompt]) -> list[Prompt]:
        """No tensors to stack."""
        return inputs

    def predict(self, prompts: list[Prompt]) -> list[tuple[bytes, float]]:
        """A collected batch."""
        return self._paint(prompts)

    def unbatch(self, output: list[tuple[bytes, float]]) -> list[tuple[bytes, float]]:
        """Nothing to split."""
        return output

    def encode_response(self, output: tuple[bytes, float]) -> Response:
        """A PNG."""
        data, took = output
        return Response(data, media_type="image/png", headers=timing(took))


if __name__ == "__main__":
    api = Painter(max_batch_size=GATHER, batch_timeout=COLLECT_S, api_path="/imagine")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=600)
    server.run("127.0.0.1", int(sys.argv[1]), generate_client_file=False, log_level="error")
