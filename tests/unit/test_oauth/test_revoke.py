import httpx
from pydantic import SecretStr


async def test_any_success_will_do_whatever_its_body(server, wire):
    route = wire.post("/revoke")
    for reply in (
        httpx.Response(200),
        httpx.Response(204),
        httpx.Response(200, text="<html>gone</html>"),
    ):
        route.return_value = reply
        await server.revoke(SecretStr("stored"))


async def test_nothing_happens_where_the_server_cannot_revoke(make_server, wire):
    await make_server(revocation_endpoint=None).revoke(SecretStr("stored"))
    assert not wire.calls
