"""How a request to the OAuth server is made: where it goes, who we say we are, who answers."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar
from urllib.parse import urlencode

from pydantic import PrivateAttr, SecretStr

from blocks.http import Reply
from blocks.oauth.call import Attempt, Clock, Timeouts, call
from blocks.oauth.caller_settings import CallerSettings
from blocks.oauth.client_settings import require_usable_url
from blocks.oauth.discovery import discover
from blocks.oauth.metadata import Metadata
from blocks.oauth.operations import Operation

Form = list[tuple[str, str | SecretStr]]
Read = TypeVar("Read")


class Connection(CallerSettings):
    """The settings, and with them a way to ask."""

    _clock: Clock = PrivateAttr(default_factory=Clock)

    async def _ask(
        self,
        operation: Operation,
        url: str,
        form: Form,
        read: Callable[[Reply, datetime], Read],
        patience: float,
    ) -> Read:
        require_usable_url(url, f"the URL of the {operation.name}", allow_http=self.allow_http)
        return await call(
            operation,
            lambda: self._attempt(url, form),
            read,
            clock=self._clock,
            patience=patience,
        )

    def _attempt(self, url: str, form: Form) -> Attempt:
        """The form as one request, authenticated for this attempt only."""
        credentials = self.credentials(
            audience=self.assertion_audience or self.issuer or self.token_endpoint or url,
            now=self._clock.now(),
        )
        secrets = [value.get_secret_value() for _, value in form if isinstance(value, SecretStr)]
        fields = [(name, _plain(value)) for name, value in form]
        fields += credentials.parameters.items()
        request = self._timeouts.build(
            "POST",
            url,
            headers={
                "Accept": "application/json",
                "Content-Type": "application/x-www-form-urlencoded",
                **credentials.headers,
            },
            # A token that is no text (a lone surrogate) is the server's to refuse, not ours to
            # quote in an encoding error.
            content=urlencode(fields, errors="replace").encode(),
        )
        return Attempt(request, self._timeouts.whole, (*secrets, *credentials.secrets))

    @property
    def _timeouts(self) -> Timeouts:
        return Timeouts(self.connect_timeout, self.read_timeout)

    async def _endpoints(self) -> Metadata:
        """The configured endpoints, or what the issuer publishes where they are left out."""
        if self.token_endpoint is not None:
            return Metadata(self.token_endpoint, self.revocation_endpoint)
        found = await self._published()
        return Metadata(found.token_endpoint, self.revocation_endpoint or found.revocation_endpoint)

    async def _published(self) -> Metadata:
        if self.issuer is None:
            raise ValueError("issuer is missing; give it, or every endpoint that is used")
        return await discover(self.issuer, timeouts=self._timeouts, clock=self._clock)


def _plain(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
