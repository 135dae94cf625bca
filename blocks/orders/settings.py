"""What an operator tells about the Orders API: where it is, and how patiently it is asked."""

from typing import Self

import httpx
from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from blocks.http import is_safe_url
from blocks.orders.paths import check_path

_PLACEHOLDERS = {
    "prepare_snapshot_path": ("tenantId", "batchId"),
    "close_path": ("tenantId", "batchId", "snapshotId"),
}


class OrdersSettings(BaseModel):
    """The fields of the Orders API block, and the rules that hold for them."""

    base_url: str = Field(
        title="Base URL",
        description="Where the Orders API is; the paths are appended to it.",
        examples=["https://orders.example.com/v1"],
    )
    prepare_snapshot_path: str = Field(
        default="/orders/batches/prepareSnapshot",
        title="Prepare snapshot path",
        description="Path of prepareDailyBatchSnapshot; it may hold {tenantId} and {batchId}.",
        examples=["/tenants/{tenantId}/batches/{batchId}/snapshots"],
    )
    close_path: str = Field(
        default="/orders/batches/close",
        title="Close path",
        description="Path of closeDailyBatch; it may hold {tenantId}, {batchId}, {snapshotId}.",
        examples=["/tenants/{tenantId}/batches/{batchId}/close"],
    )
    connect_timeout: float = Field(
        default=10.0,
        gt=0,
        le=300,
        title="Connect timeout",
        description="Seconds to wait for a connection.",
        examples=[10.0],
    )
    read_timeout: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        title="Read timeout",
        description="Seconds to wait, once connected, for the whole reply.",
        examples=[60.0],
    )
    max_attempts: int = Field(
        default=5,
        ge=1,
        le=20,
        title="Attempts",
        description="How often one operation is tried while the Orders API is unavailable.",
        examples=[5],
    )
    quote_idempotency_key: bool = Field(
        default=True,
        title="Quote the Idempotency-Key",
        description=(
            "Send the key in double quotes, as the IETF draft wants (a Structured Field String). "
            "Switch it off for an API that takes the bare key. A server may see two different keys "
            "in the two forms: change it only while no night is unfinished."
        ),
        examples=[True],
    )
    allow_http: bool = Field(
        default=False,
        title="Allow plain HTTP",
        description="Let access tokens travel unencrypted to a host other than this machine.",
        examples=[False],
    )

    @field_validator("prepare_snapshot_path", "close_path")
    @classmethod
    def _only_known_placeholders(cls, path: str, info: ValidationInfo) -> str:
        name = str(info.field_name)
        return check_path(path, name, _PLACEHOLDERS[name])

    @model_validator(mode="after")
    def _tokens_travel_safely(self) -> Self:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL:
            raise ValueError("base_url is not a URL") from None
        if url.userinfo or url.query or url.fragment:
            # httpx would send a user name as Basic authentication, in place of the access token.
            raise ValueError("base_url must have no user name, query or fragment")
        plain = self.allow_http and url.scheme == "http" and url.host
        if not plain and not is_safe_url(self.base_url):
            raise ValueError("base_url must start with https:// (or see allow_http)")
        return self
