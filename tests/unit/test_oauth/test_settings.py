import json

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey
from pydantic import ValidationError

from blocks.oauth import OAuthServer

PLACE = {"token_endpoint": "https://auth.example.com/token"}
CLIENT = {"client_id": "batch", "client_secret": "canary-secret"}
KEY_CLIENT = {"client_id": "batch", "token_endpoint_auth_method": "private_key_jwt"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (CLIENT, "token_endpoint"),
        ({**CLIENT, "issuer": "", "token_endpoint": " "}, "token_endpoint"),
        ({**CLIENT, "token_endpoint": "http://auth.example.com/token"}, "token_endpoint"),
        ({**CLIENT, "token_endpoint": "https://canary-user@auth.example.com/"}, "token_endpoint"),
        ({**CLIENT, "token_endpoint": "https://auth.example.com/#part"}, "token_endpoint"),
        ({**CLIENT, "token_endpoint": "https://[::1"}, "token_endpoint"),
        ({**CLIENT, "token_endpoint": "auth.example.com/token"}, "token_endpoint"),
        ({**CLIENT, "token_endpoint": "ftp://a.example/", "allow_http": True}, "token_endpoint"),
        ({**CLIENT, **PLACE, "revocation_endpoint": "http://a.example/"}, "revocation_endpoint"),
        ({**CLIENT, "issuer": "http://auth.example.com"}, "issuer"),
        ({**CLIENT, "issuer": "https://auth.example.com?tenant=1"}, "issuer"),
        ({**PLACE, "client_id": "", "client_secret": "s"}, "client_id"),
        ({**PLACE, "client_id": "batch"}, "client_secret"),
        ({**PLACE, "client_id": "batch", "client_secret": ""}, "client_secret"),
        (
            {**PLACE, "client_id": "b", "token_endpoint_auth_method": "client_secret_post"},
            "client_secret",
        ),
        ({**PLACE, **KEY_CLIENT, "client_secret": "canary-secret"}, "private_key"),
        ({**PLACE, **KEY_CLIENT, "private_key": "canary-nonsense"}, "private_key"),
        ({**PLACE, **KEY_CLIENT, "private_key": '{"kty": "canary'}, "private_key"),
        ({**PLACE, **CLIENT, "token_endpoint_auth_method": "tls_client_auth"}, "auth_method"),
        ({**PLACE, **CLIENT, "extra_exchange_parameters": {"scope": "x"}}, "scope"),
        ({**PLACE, **CLIENT, "extra_exchange_parameters": {"a": ["canary"]}}, "must be texts"),
        ({**PLACE, **CLIENT, "extra_exchange_parameters": "canary"}, "extra_exchange_parameters"),
        ({**PLACE, **CLIENT, "read_timeout": 0}, "read_timeout"),
    ],
)
def test_what_cannot_work_is_refused_naming_the_field_and_showing_no_secret(fields, field):
    with pytest.raises(ValidationError, match=field) as caught:
        OAuthServer(**fields)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "place",
    [
        {"token_endpoint": "http://localhost:9000/token"},
        {"token_endpoint": "http://127.0.0.1/token"},
        {"issuer": "http://[::1]:9000"},
        {"token_endpoint": "http://auth.internal/token", "allow_http": True},
    ],
)
def test_plain_http_is_for_this_machine_or_on_request(place):
    OAuthServer(**CLIENT, **place)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", RSAKey.generate_key(2048)),
        ("PS256", RSAKey.generate_key(2048)),
        ("ES256", ECKey.generate_key("P-256")),
        ("EdDSA", OKPKey.generate_key("Ed25519")),
    ],
)
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
def test_a_private_key_may_be_pem_or_jwk_and_must_fit_its_algorithm(algorithm, key):
    pem = key.as_pem(private=True).decode()
    jwk = json.dumps(key.as_dict(private=True))
    for text in (pem, jwk):
        fields = {**PLACE, **KEY_CLIENT, "private_key": text}
        OAuthServer(**fields, signing_algorithm=algorithm)
        wrong = "RS256" if algorithm.startswith("E") else "ES256"
        with pytest.raises(ValidationError, match=f"no readable private key for {wrong}"):
            OAuthServer(**fields, signing_algorithm=wrong)
    with pytest.raises(ValidationError, match="no readable private key"):
        OAuthServer(
            **PLACE,
            **KEY_CLIENT,
            private_key=key.as_pem(private=False).decode(),
            signing_algorithm=algorithm,
        )


def test_one_name_does_for_a_list_of_names():
    server = OAuthServer(**PLACE, **CLIENT, audience="orders", resource="")
    assert (server.audience, server.resource) == (["orders"], [])


def test_secrets_are_secret_in_the_block_s_schema_and_shape():
    extras = {"actor_token": "canary-actor"}
    server = OAuthServer(**PLACE, **CLIENT, extra_exchange_parameters=extras)
    assert "canary" not in repr(server) + str(server) + str(server.model_dump())
    assert "canary" not in server.model_dump_json()
    assert set(OAuthServer.model_json_schema()["secret_fields"]) == {
        "client_secret",
        "private_key",
        "extra_exchange_parameters.*",
    }


@pytest.mark.parametrize("unfilled", [None, "", {}])
def test_no_extra_parameters_are_none(unfilled):
    server = OAuthServer(**PLACE, **CLIENT, extra_exchange_parameters=unfilled)
    assert server.extra_exchange_parameters.get_secret_value() == {}


def test_every_field_has_a_title_a_sentence_and_an_example():
    for name, field in OAuthServer.model_fields.items():
        assert field.title, name
        assert field.description, name
        assert field.description.endswith("."), name
        assert field.examples, name
