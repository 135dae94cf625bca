"""Bring every configured binding to the code that was just deployed.

`prefect deploy --all` does this by itself (see prefect.yaml); `python -m deployments.rollout` does
it alone.
"""

import asyncio

from prefect.client.orchestration import get_client

from blocks import all_bindings, deployment


def bring_bindings_along() -> dict[str, int]:
    """Give every binding's deployment the template's code, keeping its schedule and its runs.

    A deployment step of Prefect; returns how many bindings there are.
    """
    return asyncio.run(_bring_along())


async def _bring_along() -> dict[str, int]:
    async with get_client() as client:
        bindings = await all_bindings.read_deployments(client)
        template = await deployment.read_template(client)
        for binding in bindings:
            await deployment.adopt(client, binding, template)
    return {"bindings": len(bindings)}


if __name__ == "__main__":
    print(f"{bring_bindings_along()['bindings']} bindings brought along")  # noqa: T201
