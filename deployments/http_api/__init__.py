"""The Journeys API: configure a batch and see how it went, over HTTP.

One ASGI app: `python -m deployments.serve`, or any other way to run one, such as
`uvicorn --factory deployments.http_api.app:create_app`.
"""
