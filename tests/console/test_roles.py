"""What viewers, operators and admins may do, of users who log in and of those whom a proxy names."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
import typer
from hospital import Hospital

from dicomflow.cli.console import _roles
from dicomflow.console.access import Access, Role
from dicomflow.console.templating import _person
from dicomflow.visitors import Proxy

PROXY = Proxy((ip_network("127.0.0.1"),), "X-Forwarded-User")
ACCESS = Access(proxy=PROXY, roles={"vera": Role.VIEWER, "anna": Role.ADMIN})


def _as(client: Any, user: str) -> Any:
    client.headers["X-Forwarded-User"] = user
    return client


@pytest.mark.parametrize(("user", "retries", "downloads"), [("vera", 403, 403), ("otto", 303, 403), ("anna", 303, 200)])
def test_role_allows_what_it_is_for(
    client_of: Any, hospital: Hospital, token_of: Callable[..., str], user: str, retries: int, downloads: int
):
    """Everybody looks; who is not named is an operator; only admins take data out or delete it."""
    client = _as(client_of(hospital, ACCESS), user)
    page = client.get("/imports")
    assert 200 == page.status_code
    assert ("Try these again" in page.text) == (retries == 303)
    form = {"csrf": token_of(client, "/imports") if retries == 303 else "", "reason": "none"}
    assert retries == client.post("/imports/retry", data=form).status_code
    assert downloads == client.get(f"/series/{hospital.report_series}.zip").status_code
    assert downloads == client.get(f"/studies/{hospital.chest}/delete").status_code
    assert (downloads == 200) == ("Delete this study" in client.get(f"/studies/{hospital.chest}").text)


def test_refusal_names_both_roles(client_of: Any, hospital: Hospital):
    """Whoever is refused learns whom to ask for what."""
    answer = _as(client_of(hospital, ACCESS), "vera").get(f"/studies/{hospital.chest}/delete.json")
    assert {"error": "this needs the role admin, and yours is viewer"} == answer.json()


def test_roles_of_the_command_line_are_read():
    """`*` stands for all others; what is no role is a wrong call."""
    assert {"roles": {"anna": Role.ADMIN}, "default_role": Role.VIEWER} == _roles(["anna=admin", "*=viewer"])
    with pytest.raises(typer.BadParameter, match="is not NAME=viewer, operator or admin"):
        _roles(["anna=root"])


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Demo^Zoë=デモ^ゾエ", "Demo, Zoë · デモ, ゾエ"),
        ("Adams^John Robert Quincy^^Rev.^B.A. M.Div.", "Adams, Rev. John Robert Quincy, B.A. M.Div."),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou · 山田, 太郎 · やまだ, たろう"),
        ("^^^^", "–"),  # noqa: RUF001  # as it is printed
    ],
)
def test_name_is_written_whole(name: str, written: str):
    """Prefix, suffix, and the ideographic and phonetic groups (PS3.5 6.2.1)."""
    assert written == _person(name)
