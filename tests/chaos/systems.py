"""The installation's settings, and the outside systems as it has them: nobody waits for long."""

from blocks import systems
from blocks.oauth import OAuthServer
from blocks.orders import OrdersApi
from deployments.sandbox.settings import SandboxSettings

SWEEP_SECONDS = 10.0
"""How often each worker looks for tokens that nobody needs."""

SETTINGS = {
    "BATCH_CLOSE_SWEEP_SECONDS": f"{SWEEP_SECONDS:g}",
    # Nothing here has automations, and SQLite has less to do without their bookkeeping.
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "BATCH_CLOSE_SHORTEST_INTERVAL": "PT5S",
}

PATIENCE = 3.0
"""Seconds; a reply that is slow on purpose takes twice as long."""


async def save_impatient_blocks(url: str, patience: float = PATIENCE) -> None:
    """Save the blocks for a sandbox at this address; workers read them again within half a minute.

    `patience` is how many seconds an answer is waited for.
    """
    client = SandboxSettings()
    server = OAuthServer(
        issuer=url,
        client_id=client.client_id,
        client_secret=client.client_secret,
        read_timeout=patience,
    )
    await server.asave(systems.DOCUMENT, overwrite=True)
    orders = OrdersApi(base_url=url, read_timeout=patience)
    await orders.asave(systems.DOCUMENT, overwrite=True)
