"""The Journeys API: configure a batch and see how it went, over HTTP.

One ASGI app: `uvicorn --factory deployments.http_api:create_app`, or `python -m deployments.serve`.
"""

from deployments.http_api.app import create_app

__all__ = ["create_app"]
