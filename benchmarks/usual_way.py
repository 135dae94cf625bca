"""The same job as it is usually written on Prefect: one flow, its steps tasks, its waits sleeps.

It is here to be compared with. It loses nights and grants that this project keeps.
"""

import asyncio
from typing import Any

import httpx
from prefect import flow, task
from prefect.blocks.system import Secret
from prefect.runtime import flow_run

CLIENT = ("batch-close", "sandbox-secret")
UPSTREAM_WAIT, REPLICATION_DELAY = 20, 10


@task
async def refresh(url: str, tenant: str) -> str:
    """Exchange the stored refresh token and store the new one; returns the access token."""
    stored: Secret[str] = await Secret.aload(f"refresh-token-{tenant}")
    asked = {"grant_type": "refresh_token", "refresh_token": stored.get()}
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        answer = await http.post("/oauth/token", data=asked, auth=CLIENT)
    tokens = answer.raise_for_status().json()
    await Secret(value=tokens["refresh_token"]).asave(f"refresh-token-{tenant}", overwrite=True)
    return str(tokens["access_token"])


@task
async def send(url: str, token: str, operation: str, body: dict[str, str]) -> dict[str, Any]:
    """Ask the Orders API for something."""
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": f"{flow_run.id}-{operation}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        answer = await http.post(f"/orders/batches/{operation}", json=body)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


@flow
async def close_orders(tenant: str, batch: str, url: str) -> None:
    """Close a day's orders."""
    body = {"tenantId": tenant, "batchId": batch}
    token = await refresh(url, tenant)
    await asyncio.sleep(UPSTREAM_WAIT)
    snapshot = await send(url, token, "prepareSnapshot", body)
    await asyncio.sleep(REPLICATION_DELAY)
    await send(url, token, "close", body | {"snapshotId": snapshot["snapshotId"]})
