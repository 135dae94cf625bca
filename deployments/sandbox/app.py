"""One sandbox: the OAuth server, the Orders API and the admin API over one memory."""

from starlette.applications import Starlette

from deployments.sandbox.admin import Admin
from deployments.sandbox.client_auth import ClientAuthenticator
from deployments.sandbox.faults import FaultPlan
from deployments.sandbox.gateway import Gateway
from deployments.sandbox.keepsakes import Keepsakes
from deployments.sandbox.ledger import Ledger
from deployments.sandbox.oauth_server import OAuthServer
from deployments.sandbox.orders_server import OrdersServer
from deployments.sandbox.settings import Clock, SandboxSettings, utc_now
from deployments.sandbox.tokens import TokenStore


def create_app(settings: SandboxSettings, clock: Clock = utc_now) -> Starlette:
    """Builds a sandbox that remembers nothing yet.

    Args:
        settings: How its servers behave.
        clock: Tells them the time; a test may turn it by hand.
    """
    ledger = Ledger(clock, settings.events_kept)
    faults = FaultPlan()
    gateway = Gateway(ledger, faults)
    keepsakes = Keepsakes(settings.events_kept)
    tokens = TokenStore(settings, clock, keepsakes)
    clients = ClientAuthenticator(settings, clock, keepsakes)
    oauth = OAuthServer(settings, tokens, clients, ledger, gateway)
    orders = OrdersServer(tokens, ledger, gateway)
    admin = Admin(tokens, ledger, faults, keepsakes)
    return Starlette(routes=[*oauth.routes(), *orders.routes(), *admin.routes()])
