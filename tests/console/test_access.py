"""Who may see the pages: a login, its end, guesses, and a proxy that is believed only where it stands."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from hospital import Hospital
from sqlalchemy import select

from dicomflow.catalog.audit import list_audit_events
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.tables import patient
from dicomflow.console.access import Access, Sessions
from dicomflow.passcodes import PasscodeFile, hash_passcode
from dicomflow.visitors import Attempts, Proxy

NAME, PASSCODE = "ines", "correct horse battery"


@pytest.fixture(scope="session")
def users(tmp_path_factory: pytest.TempPathFactory) -> PasscodeFile:
    """Give a file with one user."""
    path = tmp_path_factory.mktemp("users") / "users"
    path.write_text(hash_passcode(NAME, PASSCODE) + "\n", encoding="utf-8")
    return PasscodeFile(path, "--users-file")


class Clock:
    """Tells what it is set to."""

    seconds = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    """Give a clock of monotonic seconds."""
    return Clock()


@pytest.fixture
def stranger(
    client_of: Callable[..., httpx.Client], hospital: Hospital, users: PasscodeFile, clock: Clock
) -> httpx.Client:
    """Give a client that has not logged in."""
    access = Access(
        users=users,
        sessions=Sessions(1800, 43_200, clock),
        attempts=Attempts(allowed=3, pause_seconds=300, clock=clock),
    )
    return client_of(hospital, access)


@pytest.fixture
def log_in(token_of: Any) -> Callable[..., Any]:
    """Send the form of the login page."""

    def send(client: httpx.Client, passcode: str = PASSCODE, after: str = "/studies?name=x", user: str = NAME) -> Any:
        data = {"csrf": token_of(client, "/login"), "user": user, "passcode": passcode, "next": after}
        return client.post("/login", data=data)

    return send


def test_stranger_reads_the_metrics_which_name_nobody(stranger: httpx.Client, hospital: Hospital):
    """Prometheus has no login: it gets counts, and no name or Patient ID with them."""
    answer = stranger.get("/metrics")
    assert 200 == answer.status_code
    with begin_read(hospital.engine) as connection:
        names = connection.execute(select(patient.c.patient_name, patient.c.patient_id)).all()
    assert names
    assert not [text for row in names for text in row if text and text in answer.text and not text.isdecimal()]


@pytest.mark.parametrize("path", ["/overview", "/studies?name=x", "/audit", "/instances/1.2"])
def test_stranger_sees_the_login_and_nothing_else(stranger: httpx.Client, path: str):
    """Every page sends to the login, which leads back; JSON is refused."""
    answer = stranger.get(path)
    assert 303 == answer.status_code
    assert answer.headers["location"].startswith("/login?next=%2F")
    assert 401 == stranger.get(path, headers={"accept": "application/json"}).status_code
    assert 401 == stranger.post("/imports/retry").status_code
    assert 401 == stranger.get("/instances/1.2/frames/0.png").status_code
    page = stranger.get("/login")
    assert 200 == page.status_code
    assert "/studies" not in page.text


def test_login_opens_the_page_that_was_asked_for_and_is_recorded(
    stranger: httpx.Client, hospital: Hospital, log_in: Callable[..., Any]
):
    """Name and passcode open a session, whose cookie scripts and other sites do not get."""
    answer = log_in(stranger)
    assert (303, "/studies?name=x") == (answer.status_code, answer.headers["location"])
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert 200 == stranger.get("/studies").status_code
    with begin_read(hospital.engine) as connection:
        actions = [(each.actor, each.action) for each in list_audit_events(connection, limit=3)]
    assert ("console:ines", "log_in") in actions


def test_login_with_a_wrong_passcode_is_refused_and_slowed(
    stranger: httpx.Client, clock: Clock, log_in: Callable[..., Any]
):
    """After some failures even the right passcode has to wait."""
    for _ in range(3):
        answer = log_in(stranger, "wrong")
        assert 401 == answer.status_code
        assert "Name or passcode is wrong." in answer.text
    assert "Too many attempts" in log_in(stranger).text
    clock.seconds += 301
    assert 303 == log_in(stranger).status_code


@pytest.mark.parametrize("by", ["user", "address"])
def test_guesses_that_arrive_at_once_are_looked_at_no_more_than_allowed(by: str, clock: Clock):
    """An attempt counts before it is looked at: the others do not slip by in the meantime."""
    attempts = Attempts(allowed=5, pause_seconds=300, clock=clock)
    barrier = threading.Barrier(60)

    def guess(number: int) -> bool:
        barrier.wait()
        names = ("user x", f"address {number}") if by == "user" else (f"user {number}", "address x")
        return attempts.begin(*names) is not None

    with ThreadPoolExecutor(60) as threads:
        assert 5 == sum(threads.map(guess, range(60)))
    clock.seconds += 301
    assert attempts.begin("user x", "address x") is not None


def test_attempt_that_succeeded_counts_no_more(clock: Clock):
    """Who knows the passcode logs in as often as they like; the failures of before still count."""
    attempts = Attempts(allowed=3, pause_seconds=300, clock=clock)
    failed = [attempts.begin("user x") for _ in range(2)]
    for _ in range(10):
        begun = attempts.begin("user x")
        assert begun is not None
        attempts.succeeded(begun, "user x")
    assert None not in failed
    assert attempts.begin("user x") is not None
    assert attempts.begin("user x") is None


def test_guesses_of_a_page_at_once_find_few_answers(stranger: httpx.Client, token_of: Any, log_in: Callable[..., Any]):
    """Of 30 forms sent at once three are looked at, the right one among them or not."""
    token = token_of(stranger, "/login")

    def guess(number: int) -> str:
        form = {"csrf": token, "user": NAME, "passcode": f"guess {number}", "next": "/"}
        return stranger.post("/login", data=form).text

    with ThreadPoolExecutor(30) as threads:
        answers = list(threads.map(guess, range(30)))
    assert (3, 27) == (
        sum("is wrong" in answer for answer in answers),
        sum("Too many attempts" in answer for answer in answers),
    )
    assert "Too many attempts" in log_in(stranger).text


def test_session_ends_when_it_is_idle_too_long_or_too_old(
    stranger: httpx.Client, clock: Clock, log_in: Callable[..., Any]
):
    """Half an hour without a look ends it; so do twelve hours of work."""
    log_in(stranger)
    clock.seconds += 1700
    assert 200 == stranger.get("/edges").status_code
    clock.seconds += 1801
    assert 303 == stranger.get("/edges").status_code
    log_in(stranger)
    for _ in range(26):
        clock.seconds += 1700
        last = stranger.get("/edges").status_code
    assert 303 == last


def test_logout_makes_the_cookie_worthless(stranger: httpx.Client, log_in: Callable[..., Any], token_of: Any):
    """Who kept the cookie gets no further with it."""
    log_in(stranger)
    stolen = dict(stranger.cookies)
    stranger.post("/logout", data={"csrf": token_of(stranger, "/edges")})
    stranger.cookies.clear()
    stranger.cookies.update(stolen)
    assert 303 == stranger.get("/edges").status_code


def test_cookie_that_is_not_signed_by_us_opens_nothing(stranger: httpx.Client, log_in: Callable[..., Any]):
    """A changed cookie is none."""
    log_in(stranger)
    ((name, value),) = stranger.cookies.items()
    stranger.cookies.clear()
    stranger.cookies.set(name, "x" + value)
    assert 303 == stranger.get("/edges").status_code


@pytest.mark.parametrize(
    "after", ["//evil.example/", "https://evil.example/", "/\\evil.example", "studies", "/login?next=/"]
)
def test_login_leads_to_our_own_pages_only(stranger: httpx.Client, log_in: Callable[..., Any], after: str):
    """A link to the login cannot lead elsewhere."""
    assert "/overview" == log_in(stranger, after=after).headers["location"]


def test_secure_cookie_and_transport_security_with_tls(
    client_of: Callable[..., httpx.Client], hospital: Hospital, users: PasscodeFile
):
    """Served over TLS, the cookie never goes over plain HTTP."""
    client = client_of(hospital, Access(users=users, is_https=True))
    answer = client.get("/login")
    assert "__host-dicomflow=" in answer.headers["set-cookie"].lower()
    assert "secure" in answer.headers["set-cookie"].lower()
    assert "max-age=31536000" == answer.headers["strict-transport-security"]


@pytest.mark.parametrize(
    ("network", "header", "status"),
    [("127.0.0.0/8", "noor", 200), ("127.0.0.0/8", "", 401), ("10.8.0.0/16", "noor", 401), ("10.8.0.0/16", "", 401)],
)
def test_proxy_is_believed_only_from_its_network(
    client_of: Callable[..., httpx.Client], hospital: Hospital, network: str, header: str, status: int
):
    """Whoever else sends the header is a stranger."""
    access = Access(proxy=Proxy((ip_network(network),), "X-Forwarded-User"))
    client = client_of(hospital, access)
    answer = client.get("/edges", headers={"x-forwarded-user": header} if header else {})
    assert status == answer.status_code
    if status == 200:
        assert ">noor<" in answer.text
