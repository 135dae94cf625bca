"""What the flows touch outside themselves, one file per outside system or stored thing."""

from blocks.oauth import OAuthServer
from blocks.orders import OrdersApi

__all__ = ["OAuthServer", "OrdersApi"]
