"""The outside systems as the campaign describes them: nobody is waited for for long."""

from blocks import systems
from blocks.oauth import OAuthServer
from blocks.orders import OrdersApi
from deployments.sandbox.settings import SandboxSettings

PATIENCE = 3.0
"""Seconds; a reply that is slow on purpose takes twice as long."""


async def save_impatient_blocks(url: str) -> None:
    """Save the blocks for a sandbox at this address."""
    client = SandboxSettings()
    server = OAuthServer(
        issuer=url,
        client_id=client.client_id,
        client_secret=client.client_secret,
        read_timeout=PATIENCE,
    )
    await server.asave(systems.DOCUMENT, overwrite=True)
    orders = OrdersApi(base_url=url, read_timeout=PATIENCE)
    await orders.asave(systems.DOCUMENT, overwrite=True)
