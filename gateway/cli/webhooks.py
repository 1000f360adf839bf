"""`webhooks`: the dead letters, which are events that a subscriber did not take in any attempt."""

import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer
from pydantic import SecretStr

from gateway.cli.common import FAILED, config_or_refuse, fail, refuse, run, settings_or_refuse
from gateway.clock import SystemClock
from gateway.config import Config
from gateway.errors import StorageUnavailable
from gateway.settings import ConfigFault, Settings
from gateway.settings.model import EMBEDDED, REDIS_FORMS
from gateway.store.client import connect
from gateway.store.embedded import EmbeddedValkeyError, url_of_running
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from gateway.webhooks.dead_letters import DeadLetter, DeadLetters

app = typer.Typer(
    no_args_is_help=True, help="Payment events that subscribers did not take (dead letters), kept for 90 days."
)

DEADLINE = 5.0
"""Seconds that a command waits for Redis: an operator is more patient than a request."""
LONGEST_SHOWN = 100
"""Characters of a text in a list."""
NARROWEST = 150
"""Columns of the table. A narrower terminal breaks its lines, which reads better than columns of four letters."""

T = TypeVar("T")
SubscriberOption = Annotated[
    str | None, typer.Option(help="Only of this subscriber, by its id in gateway.yaml.", metavar="ID")
]
Ids = Annotated[list[str] | None, typer.Argument(help="As `webhooks list` shows them.", metavar="ID")]
All = Annotated[bool, typer.Option("--all", help="Instead of ids: all there are.")]


@app.command("list")
def list_letters(
    subscriber: SubscriberOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List dead letters, the latest first: a table in a terminal, else a line each with tabs between the fields.

    The fields: subscriber, id, type, transaction, order id, when it was given up, attempts, and the last error.

    \b
    Examples:
      quantapay-gateway webhooks list
      quantapay-gateway webhooks list --subscriber orders --json | jq -r .id
    """
    letters = _with_dead_letters(subscriber, lambda dead: _collected(dead.list()))
    if as_json:
        for letter in letters:
            # In ASCII: no text of a payer's steers a terminal, and none depends on its encoding.
            typer.echo(json.dumps(dataclasses.asdict(letter), default=_rfc3339))
    elif not letters:
        typer.echo("No dead letters.", err=True)
    elif sys.stdout.isatty():
        _print_table(letters)
    else:
        for letter in letters:
            typer.echo("\t".join(_cells(letter)))


@app.command()
def replay(ids: Ids = None, every: All = False, subscriber: SubscriberOption = None) -> None:
    """Have dead letters delivered again, with all attempts, by the gateways that run.

    \b
    Examples:
      quantapay-gateway webhooks replay msg_0f5c8b1d4e2a49769cde83b0a1f4d7e6
      quantapay-gateway webhooks replay --all --subscriber orders
    """
    wanted = _wanted(ids, every, subscriber)
    _finish(_with_dead_letters(subscriber, lambda dead: _act(dead.replay, wanted)), every, "will be delivered again")


@app.command()
def discard(
    ids: Ids = None,
    every: All = False,
    subscriber: SubscriberOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before discarding all.")] = False,
) -> None:
    """Remove dead letters for good.

    \b
    Examples:
      quantapay-gateway webhooks discard msg_0f5c8b1d4e2a49769cde83b0a1f4d7e6
      quantapay-gateway webhooks discard --all --subscriber orders --yes
    """
    wanted = _wanted(ids, every, subscriber)
    if every and wanted and not yes:
        typer.confirm(f"Discard {_counted(len(wanted), 'event')} for good?", abort=True, err=True)
    _finish(_with_dead_letters(subscriber, lambda dead: _act(dead.discard, wanted)), every, "discarded")


def _wanted(ids: Sequence[str] | None, every: bool, subscriber: str | None) -> list[str]:
    """Return the ids that are meant, each once."""
    if bool(ids) is every:
        raise typer.BadParameter("name ids, or say --all", param_hint="ID")
    if ids:
        return list(dict.fromkeys(ids))
    return list(
        dict.fromkeys(letter.id for letter in _with_dead_letters(subscriber, lambda dead: _collected(dead.list())))
    )


async def _collected(letters: AsyncIterator[DeadLetter]) -> list[DeadLetter]:
    return [letter async for letter in letters]


async def _act(act: Callable[[str], Coroutine[Any, Any, int]], ids: Iterable[str]) -> dict[str, int]:
    """Return how many dead letters there were of each id."""
    return {message_id: await act(message_id) if message_id.isascii() else 0 for message_id in ids}


def _finish(found: dict[str, int], every: bool, what: str) -> None:
    """Say what was done; end with 1 if there was nothing with an id that was named."""
    typer.echo(f"{_counted(sum(found.values()), 'dead letter')} {what}.")
    absent = [] if every else [message_id for message_id, count in found.items() if not count]
    for message_id in absent:
        typer.echo(f"quantapay-gateway: no dead letter {_shown(message_id)}; see `webhooks list`", err=True)
    if absent:
        raise typer.Exit(FAILED)


def _with_dead_letters(subscriber: str | None, work: Callable[[DeadLetters], Coroutine[Any, Any, T]]) -> T:
    """Return what `work` returns; end with 2 for a bad configuration, with 1 if Redis cannot be used."""
    settings = settings_or_refuse(asks_quantapay=False)
    config = config_or_refuse(settings)
    subscribers = _subscribers(config, subscriber)
    client = connect(_redis_url(settings))
    result: list[T] = []

    async def connected() -> None:
        store = Store(client, clock=SystemClock(), metrics=Metrics(), deadline=DEADLINE)
        try:
            result.append(await work(DeadLetters(store, subscribers)))
        except StorageUnavailable:
            fail("cannot use the Redis of GATEWAY_REDIS_URL: see that it runs, can be reached, and lets the gateway in")
        finally:
            await store.close()

    run(connected())
    if not result:
        raise typer.Abort
    return result[0]


def _subscribers(config: Config, wanted: str | None) -> list[str]:
    known = [subscriber.id for subscriber in config.subscribers]
    if wanted is None and not known:
        typer.echo("gateway.yaml has no subscribers; GATEWAY_CONFIG says where it is.", err=True)
    if wanted is None:
        return known
    if wanted not in known:
        problem = f"no such subscriber in gateway.yaml; there are: {', '.join(known) or 'none'}"
        raise typer.BadParameter(problem, param_hint="--subscriber")
    return [wanted]


def _redis_url(settings: Settings) -> SecretStr:
    if settings.redis_url is None:
        refuse([ConfigFault("GATEWAY_REDIS_URL", f"required: {REDIS_FORMS}, as the gateway has it")])
    if settings.redis_url.get_secret_value() != EMBEDDED:
        return settings.redis_url
    try:
        return SecretStr(url_of_running(settings.data_dir))
    except EmbeddedValkeyError as error:
        fail(str(error))


def _print_table(letters: Iterable[DeadLetter]) -> None:
    from rich.console import Console, ConsoleDimensions  # noqa: PLC0415 - a terminal alone needs it
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=None, pad_edge=False)
    for title in ("subscriber", "id", "type", "transaction", "order id", "given up", "attempts", "last error"):
        table.add_column(title, overflow="fold", no_wrap=title == "id")
    for letter in letters:
        table.add_row(*_cells(letter))
    console = Console(markup=False, emoji=False, highlight=False)
    console.size = ConsoleDimensions(max(console.width, NARROWEST), console.height)
    console.print(table)


def _cells(letter: DeadLetter) -> list[str]:
    return [_shown(value) for value in dataclasses.astuple(letter)]


def _rfc3339(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def _shown(value: object) -> str:
    """Return a text that steers no terminal, is not long and can be encoded: payers and subscribers make texts too."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return _rfc3339(value)
    text = str(value)
    if len(text) > LONGEST_SHOWN:
        text = f"{text[: LONGEST_SHOWN - 3]}..."
    visible = "".join(character if character.isprintable() else "\ufffd" for character in text)
    encoding = sys.stdout.encoding or "utf-8"
    return visible.encode(encoding, "replace").decode(encoding)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
