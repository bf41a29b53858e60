"""``imagine "a red circle" -o out.png``: ask a running service for a picture."""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from serve_app.client.service import Picture, Service, ServiceError, Watcher
from serve_app.client.terminal import Protocol, drawn, protocol_of

SERVER = "http://127.0.0.1:8000"
_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_PREVIEWS = 3


def main(
    arguments: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    transport: httpx.BaseTransport | None = None,
) -> None:
    """The command; exits with 1 and a sentence when there is no picture."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    out = Path(options.out)
    if out.suffix.lower() not in _FORMATS:
        sys.exit(f"-o: {options.out}: name a file that ends in {', '.join(_FORMATS)}")
    key = environ.get("IMAGINE_API_KEY")
    server = options.server or environ.get("IMAGINE_SERVER", SERVER)
    shows = protocol_of(environ) if sys.stdout.isatty() and not options.no_preview else None
    try:
        if options.key_file is not None:
            key = Path(options.key_file).read_text(encoding="utf-8").strip()
        fields = _fields(options, out)
        with Service(server, key, transport) as service:
            pictures = _paint(service, fields, console, shows)
        for path, picture in _named(out, pictures):
            path.write_bytes(picture.image)
            console.print(
                f"{path}: seed {picture.seed}, {picture.pool} ({picture.accelerator})",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            if shows is not None:
                sys.stdout.write(drawn(picture.image, shows))
    except (ServiceError, OSError) as error:
        sys.exit(f"imagine: {error}")
    except KeyboardInterrupt:
        # Closing the connection has cancelled the picture.
        sys.exit(130)


def _paint(
    service: Service, fields: Mapping[str, Any], console: Console, shows: Protocol | None
) -> list[Picture]:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bar:
        bars: dict[int, TaskID] = {0: bar.add_task("asking", total=1, completed=0)}

        def step(index: int, taken: int, steps: int) -> None:
            if index not in bars:
                bars[index] = bar.add_task("painting")
            bar.update(bars[index], description="painting", completed=taken, total=steps)

        def queued(place: int | None) -> None:
            bar.update(bars[0], description="waiting" if place is None else f"waiting, {place}.")

        def preview(index: int, image: bytes) -> None:
            if shows is not None:
                bar.stop()
                sys.stdout.write(drawn(image, shows))
                sys.stdout.flush()
                bar.start()

        watcher = Watcher(queued=queued, step=step, preview=preview)
        return service.paint(fields, watcher, previews=_PREVIEWS if shows else 0)


def _fields(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The request's fields: only what was given, so that the service's defaults hold."""
    given = {
        "prompt": options.prompt,
        "negative_prompt": options.negative,
        "width": options.width,
        "height": options.height,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
        "seed": options.seed,
        "scheduler": options.scheduler,
        "n": options.n,
        "strength": options.strength,
        "pool": options.pool,
        "output_format": _FORMATS[out.suffix.lower()],
    }
    for name, path in (("image", options.image), ("mask", options.mask)):
        if path is not None:
            given[name] = base64.b64encode(Path(path).read_bytes()).decode("ascii")
    return {name: value for name, value in given.items() if value is not None}


def _named(out: Path, pictures: Sequence[Picture]) -> list[tuple[Path, Picture]]:
    """``out.png``; of several pictures ``out-1.png``, ``out-2.png``."""
    if len(pictures) == 1:
        return [(out, pictures[0])]
    return [
        (out.with_stem(f"{out.stem}-{number}"), picture)
        for number, picture in enumerate(pictures, start=1)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imagine",
        description="Ask a running service for a picture.",
        epilog="IMAGINE_SERVER names the service, IMAGINE_API_KEY holds the key, where one is"
        " needed.",
    )
    parser.add_argument("prompt", help="what to paint")
    parser.add_argument("-o", "--out", default="out.png", help="file to write (default: out.png)")
    parser.add_argument("--server", help=f"address of the service (default: {SERVER})")
    parser.add_argument("--key-file", help="file that holds the API key")
    parser.add_argument("--negative", help="what to steer away from")
    parser.add_argument("--seed", type=int, help="decides the picture")
    parser.add_argument("--pool", help="pin a pool")
    parser.add_argument("-n", type=int, help="how many pictures")
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--guidance", type=float, help="guidance scale; at most 1 for none")
    parser.add_argument("--scheduler", help="sampler")
    parser.add_argument("--image", help="start picture, for image-to-image")
    parser.add_argument("--mask", help="with --image: white where it is to be repainted")
    parser.add_argument("--strength", type=float, help="how much of it is repainted")
    parser.add_argument("--no-preview", action="store_true", help="show no picture in the terminal")
    return parser


if __name__ == "__main__":
    main()
