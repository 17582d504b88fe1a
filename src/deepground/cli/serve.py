"""`deepground serve`: a model behind the API."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from deepground.cli.serve_agent import (
    AgentOption,
    KeyOption,
    RulesOption,
    UrlOption,
    WorkspacesOption,
    agent_service,
    agent_summary,
    check_agent_options,
)
from deepground.cli.startup import without_collection

if TYPE_CHECKING:
    from deepground.agent.service import AgentService
    from deepground.engine import Engine, EngineConfig, EngineService
    from deepground.server import AuditLog, KeyRing, ServedModel, TlsFiles


class LogFormat(StrEnum):
    """How the log is written."""

    TEXT = "text"
    JSON = "json"


_ApiKey = Annotated[
    str | None,
    typer.Option(envvar="DEEPGROUND_API_KEY", help="Key that clients must send. Better set in the environment."),
]
_Keys = Annotated[
    Path | None, typer.Option(envvar="DEEPGROUND_KEYS", help="File of keys from `deepground keys create`.")
]
_CorsOrigin = Annotated[
    list[str] | None, typer.Option(help="A web origin that browsers may call from; may be repeated.")
]
_AuditLog = Annotated[
    Path | None, typer.Option(help="File to which every request is appended: who, when, how much; never what.")
]


def serve(
    model: ModelFolder = None,
    host: Annotated[str, typer.Option(help="Address to listen on; open ones need a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    api_key: _ApiKey = None,
    keys: _Keys = None,
    unix_socket: Annotated[Path | None, typer.Option(help="Listen on this Unix socket instead of a port.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate for HTTPS (PEM); needs --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    cors_origin: _CorsOrigin = None,
    audit_log: _AuditLog = None,
    log_format: Annotated[LogFormat, typer.Option(help="Of the log on standard error.")] = LogFormat.TEXT,
    served_name: Annotated[str | None, typer.Option(help="The model's id in the API; else the folder's name.")] = None,
    dtype: DtypeOption = Dtype.AUTO,
    chat_format: ChatFormatOption = None,
    threads: ThreadsOption = None,
    memory_limit: MemoryLimitOption = None,
    speculate: SpeculateOption = Speculate.AUTO,
    draft_tokens: DraftTokensOption = None,
    max_sequences: Annotated[int, typer.Option(min=1, help="Requests computed at one time; others wait.")] = 32,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests computed or waiting; more are told 503.")] = 256,
    max_body_mib: Annotated[float, typer.Option(min=0.001, help="Largest request body, in MiB.")] = 8,
    cache_gib: Annotated[float | None, typer.Option(min=0.001, help="Memory for keys and values, in GiB.")] = None,
    prefix_cache: PrefixCacheOption = True,
    prefix_disk: PrefixDiskOption = True,
    prefix_cache_dir: PrefixDirOption = None,
    prefix_cache_disk_gib: PrefixGibOption = None,
    grace: Annotated[float, typer.Option(min=1, help="Seconds that running replies get when the server stops.")] = 30,
    agent: AgentOption = False,
    agent_workspace: WorkspacesOption = None,
    agent_rules: RulesOption = None,
    agent_url: UrlOption = None,
    agent_key: KeyOption = "",
) -> None:
    """Serve a model behind an OpenAI-, DeepSeek- and Anthropic-compatible API until Ctrl-C."""
    options = dict(locals())
    _check(options)
    with without_collection():
        from deepground.engine import PILOT_FOLDER, EngineService, load_engine
        from deepground.server import TlsFiles, bind, bind_unix, configure_logging, describe_model

    configure_logging(as_json=log_format is LogFormat.JSON)
    ring = _key_ring(api_key, keys)
    tls = None if tls_cert is None or tls_key is None else TlsFiles(tls_cert, tls_key)
    config = _engine_config(options)
    # Before the model is loaded, which can take minutes: a port in use should show at once.
    sock = bind(host, port, has_key=ring is not None) if unix_socket is None else bind_unix(unix_socket)
    with contextlib.closing(sock), _audit(audit_log) as audit, agent_service(options, sock) as agents:
        engine = load_engine(model, config, dtype=dtype.value, chat_format=chat_format)
        served = describe_model(engine, model or PILOT_FOLDER, name=served_name)
        with EngineService(engine) as service:
            _answer(service, served, sock, options, ring=ring, tls=tls, audit=audit, agents=agents)
    if unix_socket is not None:
        unix_socket.unlink(missing_ok=True)
    print("\n".join(["stopped", *_expert_use(engine)]), flush=True)


def _check(options: Mapping[str, Any]) -> None:
    """Refuse what is empty or does not go together.

    Raises:
        typer.BadParameter: names the option.
    """
    if options["api_key"] is not None and not options["api_key"].strip():
        raise typer.BadParameter("is empty", param_hint="--api-key")
    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise typer.BadParameter("need each other", param_hint="--tls-cert and --tls-key")
    check_agent_options(options)


def _engine_config(options: Mapping[str, Any]) -> EngineConfig:
    from deepground.engine import EngineConfig

    own = {
        "max_batch_tokens": max(1024, options["max_sequences"]),
        "memory_limit": gib_to_bytes(options["memory_limit"]),
        "cache_bytes": gib_to_bytes(options["cache_gib"]),
        "num_threads": options["threads"],
        "speculate": options["speculate"].value,
        "prefix_disk": prefix_disk_folder(
            cache=options["prefix_cache"],
            disk=options["prefix_disk"],
            folder=options["prefix_cache_dir"],
            gib=options["prefix_cache_disk_gib"],
        ),
        "prefix_disk_bytes": gib_to_bytes(options["prefix_cache_disk_gib"]),
    }
    return EngineConfig(**{name: options[name] for name in ("max_sequences", "draft_tokens", "prefix_cache")} | own)


@contextlib.contextmanager
def _audit(path: Path | None) -> Iterator[AuditLog | None]:
    """The audit log, closed at the end; None where none is asked for."""
    from deepground.server import AuditLog

    if path is None:
        yield None
        return
    log = AuditLog(path)
    try:
        yield log
    finally:
        log.close()


def _answer(
    service: EngineService,
    served: ServedModel,
    sock: socket.socket,
    options: Mapping[str, Any],
    *,
    ring: KeyRing | None,
    tls: TlsFiles | None,
    audit: AuditLog | None,
    agents: AgentService | None,
) -> None:
    """Answer requests until a signal."""
    from deepground.engine import ModelSession
    from deepground.server import ServerLimits, create_app, serve_app, url_of

    limits = ServerLimits(
        max_running=options["max_sequences"] + 4,
        max_requests=options["max_requests"],
        max_body_bytes=int(options["max_body_mib"] * 2**20),
    )
    origins = options["cors_origin"] or ()
    app = create_app(
        ModelSession(service), served, keys=ring, limits=limits, audit=audit, cors_origins=origins, agent=agents
    )
    url = url_of(sock, tls=tls is not None)

    def on_stop() -> None:
        app.gate.close()
        if agents is not None:
            agents.halt()

    print(_summary(service.engine, served, url, agents, has_key=ring is not None), flush=True)
    serve_app(app, sock, cut_off=service.stop, grace_s=options["grace"], tls=tls, on_stop=on_stop)


def _key_ring(api_key: str | None, keys: Path | None) -> KeyRing | None:
    """What knows the keys; None where none are asked for.

    Raises:
        typer.BadParameter: the file of keys does not exist, or holds none.
    """
    from deepground.server import KeyRings, KeyStore, SingleKey

    rings: list[KeyRing] = [] if api_key is None else [SingleKey(api_key)]
    if keys is not None:
        if not keys.is_file():
            raise typer.BadParameter(
                f"{keys} does not exist; make a key with `deepground keys create`", param_hint="--keys"
            )
        rings.append(KeyStore(keys))
    return KeyRings(rings) if rings else None


def _summary(engine: Engine, served: ServedModel, url: str, agents: AgentService | None, *, has_key: bool) -> str:
    cache_tokens = engine.stats.pages_total * engine.config.page_size
    return "\n".join(
        [
            f"model    {served.name} ({engine.decoder.config.family}, {engine.num_parameters / 1e6:,.1f}M parameters)",
            f"compute  {engine.compute}",
            f"context  {served.context_length} tokens; cache for {cache_tokens} ({engine.cache_bytes / 2**30:.2f} GiB)",
            f"prefixes {_prefix_places(engine)}",
            *agent_summary(agents),
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
