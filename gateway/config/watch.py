"""The configuration while the process runs: re-read when the file's content changes, never worse than before."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from gateway.clock import Clock
from gateway.config.load import parse_config, read_file
from gateway.config.model import Config
from gateway.settings import ConfigFault, ConfigurationError

POLL_SECONDS = 2.0

OnReload = Callable[[bool, tuple[ConfigFault, ...]], None]
"""Called after each attempt to take a new version: whether it is in force, and what is wrong with it if not."""
OnChange = Callable[[Config], None]
"""Called with each new configuration that differs from the one before."""


class ConfigSource(Protocol):
    """Where the rest of the gateway looks up its configuration, anew for each request."""

    @property
    def current(self) -> Config:
        """Return the configuration in force."""


@dataclass(frozen=True, slots=True)
class FixedConfig:
    """A configuration that never changes: for the sandbox and for tests."""

    current: Config = field(default_factory=Config)


@dataclass(frozen=True, slots=True)
class _Version:
    """One content of the file: what tells it from others, and what it means."""

    digest: str
    outcome: Config | tuple[ConfigFault, ...]


class ConfigFile:
    """gateway.yaml in force. A bad new version keeps the old one, is reported once, and stops nothing.

    The content is compared, not the time of change, and the path is resolved anew each time: a Kubernetes
    ConfigMap swaps a symlink (`..data`) under an unchanged name. Files of `${file:…}` are read with each version.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        environ: Mapping[str, str],
        secrets_dir: Path | None,
        settings_secrets: Mapping[str, SecretStr],
        clock: Clock,
        on_reload: OnReload = lambda success, faults: None,
        on_change: OnChange = lambda config: None,
    ) -> None:
        """Read the file; raise `ConfigurationError` if this first version is bad. `path` None: all defaults."""
        self._path = path
        self._environ = environ
        self._secrets_dir = secrets_dir
        self._settings_secrets = settings_secrets
        self._clock = clock
        self._on_reload = on_reload
        self._on_change = on_change
        version = self._read()
        if isinstance(version.outcome, tuple):
            raise ConfigurationError(version.outcome)
        self._seen = version.digest
        self._current = version.outcome

    @property
    def current(self) -> Config:
        """Return the last good configuration."""
        return self._current

    async def run(self) -> None:
        """Compare every two seconds, until cancelled."""
        while True:
            await self._clock.sleep(POLL_SECONDS)
            await self.poll()

    async def poll(self) -> None:
        """Take a new version if the content has changed; parses in a thread, so that no request waits for it."""
        version = await asyncio.to_thread(self._read_if_new)
        if version is not None:
            self._take(version)

    def reload(self) -> None:
        """Read the file now, changed or not, as on SIGHUP: secrets in files of their own may have changed."""
        self._take(self._read())

    def _read_if_new(self) -> _Version | None:
        content = self._content()
        return None if _digest(content) == self._seen else self._understand(content)

    def _read(self) -> _Version:
        return self._understand(self._content())

    def _content(self) -> bytes | tuple[ConfigFault, ...]:
        if self._path is None:
            return b""
        try:
            return read_file(self._path)
        except ConfigurationError as error:
            return error.faults

    def _understand(self, content: bytes | tuple[ConfigFault, ...]) -> _Version:
        outcome: Config | tuple[ConfigFault, ...]
        if isinstance(content, tuple):
            outcome = content
        else:
            try:
                outcome = parse_config(
                    content,
                    environ=self._environ,
                    secrets_dir=self._secrets_dir,
                    settings_secrets=self._settings_secrets,
                )
            except ConfigurationError as error:
                outcome = error.faults
        return _Version(_digest(content), outcome)

    def _take(self, version: _Version) -> None:
        self._seen = version.digest
        if isinstance(version.outcome, tuple):
            self._on_reload(False, version.outcome)
            return
        changed = version.outcome != self._current
        self._current = version.outcome
        self._on_reload(True, ())
        if changed:
            self._on_change(self._current)


def _digest(content: bytes | tuple[ConfigFault, ...]) -> str:
    """Tell one content from another; a file that cannot be read has a digest too, so that it is reported once."""
    return hashlib.sha256(content if isinstance(content, bytes) else repr(content).encode()).hexdigest()
