"""`deepground serve`: a model behind the API."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from deepground.cli.options import (
    ChatFormatOption,
    DraftTokensOption,
    Dtype,
    DtypeOption,
    MemoryLimitOption,
    ModelFolder,
    PrefixCacheOption,
    PrefixDirOption,
    PrefixDiskOption,
    PrefixGibOption,
    Speculate,
    SpeculateOption,
    ThreadsOption,
    gib_to_bytes,
    prefix_disk_folder,
)
from deepground.cli.startup import without_collection

if TYPE_CHECKING:
    from deepground.engine import Engine
    from deepground.server import ServedModel


def serve(
    model: ModelFolder = None,
    host: Annotated[str, typer.Option(help="Address to listen on; open ones need --api-key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="DEEPGROUND_API_KEY", help="Key that clients must send. Better set in the environment."),
    ] = None,
    served_name: Annotated[str | None, typer.Option(help="The model's id in the API; else the folder's name.")] = None,
    dtype: DtypeOption = Dtype.AUTO,
    chat_format: ChatFormatOption = None,
    threads: ThreadsOption = None,
    memory_limit: MemoryLimitOption = None,
    speculate: SpeculateOption = Speculate.AUTO,
    draft_tokens: DraftTokensOption = None,
    max_sequences: Annotated[int, typer.Option(min=1, help="Requests computed at one time; others wait.")] = 32,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests computed or waiting; more are told 503.")] = 256,
    cache_gib: Annotated[float | None, typer.Option(min=0.001, help="Memory for keys and values, in GiB.")] = None,
    prefix_cache: PrefixCacheOption = True,
    prefix_disk: PrefixDiskOption = True,
    prefix_cache_dir: PrefixDirOption = None,
    prefix_cache_disk_gib: PrefixGibOption = None,
    grace: Annotated[float, typer.Option(min=1, help="Seconds that running replies get when the server stops.")] = 30,
) -> None:
    """Serve a model behind an OpenAI- and DeepSeek-compatible API until Ctrl-C."""
    if api_key is not None and not api_key.strip():
        raise typer.BadParameter("is empty", param_hint="--api-key")
    with without_collection():
        from deepground.engine import PILOT_FOLDER, ChatSession, EngineConfig, EngineService, load_engine
        from deepground.server import ServerLimits, bind, create_app, describe_model, serve_app, url_of

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = EngineConfig(
        max_sequences=max_sequences,
        max_batch_tokens=max(1024, max_sequences),
        memory_limit=gib_to_bytes(memory_limit),
        cache_bytes=gib_to_bytes(cache_gib),
        num_threads=threads,
        speculate=speculate.value,
        draft_tokens=draft_tokens,
        prefix_cache=prefix_cache,
        prefix_disk=prefix_disk_folder(
            cache=prefix_cache, disk=prefix_disk, folder=prefix_cache_dir, gib=prefix_cache_disk_gib
        ),
        prefix_disk_bytes=gib_to_bytes(prefix_cache_disk_gib),
    )
    # Before the model is loaded, which can take minutes: a port in use should show at once.
    with bind(host, port, has_key=api_key is not None) as sock:
        engine = load_engine(model, config, dtype=dtype.value, chat_format=chat_format)
        served = describe_model(engine, model or PILOT_FOLDER, name=served_name)
        with EngineService(engine) as service:
            app = create_app(
                ChatSession(service), served, api_key=api_key, limits=ServerLimits(max_requests=max_requests)
            )
            print(_summary(engine, served, url_of(sock), has_key=api_key is not None), flush=True)
            serve_app(app, sock, cut_off=service.stop, grace_s=grace)
    print("\n".join(["stopped", *_expert_use(engine)]), flush=True)


def _summary(engine: Engine, served: ServedModel, url: str, *, has_key: bool) -> str:
    cache_tokens = engine.stats.pages_total * engine.config.page_size
    return "\n".join(
        [
            f"model    {served.name} ({engine.decoder.config.family}, {engine.num_parameters / 1e6:,.1f}M parameters)",
            f"compute  {engine.compute}",
            f"context  {served.context_length} tokens; cache for {cache_tokens} ({engine.cache_bytes / 2**30:.2f} GiB)",
            f"prefixes {_prefix_places(engine)}",
            f"access   {'API key needed' if has_key else 'no API key, this machine only'}",
            f"address  {url}   (OpenAI base URL: {url}/v1; Ctrl-C stops)",
        ]
    )


def _expert_use(engine: Engine) -> list[str]:
    stats = engine.expert_stats
    if stats is None:
        return []
    return [
        f"experts  {stats.hit_rate:.1%} of {stats.hits + stats.misses} found in memory, "
        f"{stats.bytes_read / 1e9:.1f} GB read, {stats.wait_seconds:.0f} s waited"
    ]


def _prefix_places(engine: Engine) -> str:
    if not engine.config.prefix_cache:
        return "computed anew for each request"
    return "cached in memory" + (f" and in {engine.prefix_folder}" if engine.prefix_folder else "")
