"""`dicomflow console --stack`: the pages of a deployed stack on this machine, by calls of one function."""

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hospital import Hospital
from sqlalchemy import text

from dicomflow.cli.operator import caller, function_of
from dicomflow.console import forwarded, function
from dicomflow.console.forward import create_forwarder
from dicomflow.errors import PermanentError
from dicomflow.serving import WebServer

INES = "assumed-role/Operators/ines"
ANSWER_BYTES = 6 * 1024 * 1024  # AWS Lambda Developer Guide, "Lambda quotas": invocation payload
WHO = (
    "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/Operators/ines"
    "</Arn><UserId>A</UserId><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
)


class Aws(HTTPServer):
    """Lambda's Invoke of one function, one call after the other in one thread as Lambda does, and STS."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.planned: list[tuple[int, dict[str, str], bytes]] = []

        class Asked(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                aws = self.server
                assert isinstance(aws, Aws)
                asked = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, body = 200, {}, b""
                if aws.planned:
                    status, headers, body = aws.planned.pop(0)
                elif b"GetCallerIdentity" in asked:
                    headers, body = {"Content-Type": "text/xml"}, WHO.encode()
                elif self.path == "/2015-03-31/functions/hospital-console/invocations":
                    body = json.dumps(function.console(json.loads(asked))).encode()
                    aws.answers.append(body)
                else:
                    status, headers = 404, {"x-amzn-ErrorType": "ResourceNotFoundException"}
                    body = b'{"Message": "Function not found"}'
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Asked)


@pytest.fixture
def ours(new_hospital: Callable[..., Hospital]) -> Hospital:
    """Give a hospital of this test's own."""
    return new_hospital()


@pytest.fixture
def aws(ours: Hospital, monkeypatch: pytest.MonkeyPatch, restore_logging: None) -> Iterator[Aws]:
    """Serve AWS for a stack over the hospital's catalog."""
    folder = Path(str(ours.engine.url.database)).parent
    server = Aws()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "DICOMFLOW_DATABASE_URL": f"sqlite:///{folder / 'catalog.db'}",
        "DICOMFLOW_STORE_URL": (folder / "objects").as_uri(),
        "DICOMFLOW_IMPORTS__ENABLED": "false",
    }.items():
        monkeypatch.setenv(name, value)

    def serve() -> None:
        asyncio.set_event_loop(loop := asyncio.new_event_loop())
        server.serve_forever(poll_interval=0.05)
        loop.close()
        if function._context.cache_info().currsize:
            function._context().pictures.close()
            function._context().engine.dispose()

    function._context.cache_clear()
    function._application.cache_clear()
    thread = threading.Thread(target=serve)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    function._context.cache_clear()
    function._application.cache_clear()


@pytest.fixture
def there(aws: Aws) -> Iterator[httpx.Client]:
    """Give a client of the forwarder on this machine."""
    call = function_of("hospital", "console", read_seconds=60)
    server = WebServer(create_forwarder(call, caller()), "127.0.0.1", 0)
    server.start()
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client
    server.close()


def test_pages_of_a_stack_are_those_of_the_console(
    ours: Hospital, there: httpx.Client, client_of: Callable[..., httpx.Client]
):
    """Status, text, pictures and headers come as the console itself makes them."""
    here = client_of(ours)
    uid = here.get("/studies.json").json()["studies"][0]["study_instance_uid"]
    series = here.get(f"/studies/{uid}.json").json()["series"][0]["series_instance_uid"]
    image = here.get(f"/series/{series}.json").json()["instances"][0]["sop_instance_uid"]
    paths = ["/", "/overview", "/studies?name=%C3%A4", f"/studies/{uid}.json", f"/series/{series}", "/static/style.css"]
    paths += [
        f"/instances/{image}/frames/1.png",
        "/imports?state=failed",
        "/nowhere",
        "/studies/%2e%2e",
        "/audit?q=%00",
    ]
    for path in paths:
        expected, found = here.get(path), there.get(path)
        assert expected.status_code == found.status_code, path
        if expected.content:
            assert expected.headers["content-type"] == found.headers["content-type"], path
        for header in ("content-security-policy", "cache-control", "location", "x-content-type-options"):
            assert expected.headers.get(header) == found.headers.get(header), (path, header)
        if not path.startswith(("/overview", "/imports", "/series")):  # which tell the time, or a form's token
            # Who is local may everything; whom AWS names is an operator.
            theirs = found.text.replace(INES, "local").replace(">operator</span>", ">admin</span>")
            assert expected.text == theirs, path


def test_try_again_works_by_the_form_and_names_the_caller(
    ours: Hospital, there: httpx.Client, token_of: Callable[[httpx.Client, str], str]
):
    """The token of a page is good for its form, whichever instance of the function answers; IAM's name is audited."""
    token = token_of(there, "/imports")
    function._application.cache_clear()  # another instance
    done = there.post("/imports/retry", data={"csrf": token}, headers={"x-dicomflow-user": "somebody"})
    assert 303 == done.status_code
    with ours.engine.connect() as connection:
        actors = set(connection.execute(text("SELECT actor FROM audit_event WHERE action = 'retry_imports'")).scalars())
    assert f"console:{INES}" in actors
    assert "console:somebody" not in actors


def test_form_of_another_site_or_console_is_refused(there: httpx.Client, aws: Aws, token_of: Any):
    """What a browser was made to send changes nothing, and AWS is not even asked."""
    token = token_of(there, "/imports")
    before = len(aws.answers)
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert 403 == there.post("/imports/retry", data={"csrf": token}, headers=headers).status_code
    for host in ("evil.example", "evil.example:8044", "[::1]:8044", ""):
        assert there.get("/studies", headers={"host": host}).status_code in {400, 421}
    assert 413 == there.post("/imports/retry", content=b"x" * 100_000).status_code
    assert before == len(aws.answers)
    assert 403 == there.post("/imports/retry", data={"csrf": "made up"}).status_code


def test_function_itself_refuses_other_hosts(there: httpx.Client):
    """The checks stand in the cloud too, whoever calls: a machine in between is not trusted to make them."""
    assert 200 == there.get("/studies").status_code
    event = {
        "version": "2.0",
        "rawPath": "/studies",
        "headers": {"host": "evil.example"},
        "requestContext": {"http": {"method": "GET", "path": "/studies", "sourceIp": "127.0.0.1"}},
        "secret": "s",
        "start": 0,
    }
    assert 421 == function_of("hospital", "console", read_seconds=60)(event)["statusCode"]
    event["headers"] = {"host": "localhost"}  # and names nobody
    assert 401 == function_of("hospital", "console", read_seconds=60)(event)["statusCode"]


def test_answer_above_lambdas_limit_comes_in_parts(
    ours: Hospital, there: httpx.Client, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    """No call's answer has more than 6 MB, and the parts make the whole; when they do not fit that is said."""
    size, noise = 7_000_001, os.urandom(7_000_001)
    context = function._context
    there.get("/studies")
    monkeypatch.setattr(type(context().pictures), "thumbnail", lambda *_: noise)
    image = there.get(f"/series/{_series(there)}.json").json()["instances"][0]["sop_instance_uid"]
    del aws.answers[:]
    found = there.get(f"/instances/{image}/thumbnail.png")
    assert (200, size) == (found.status_code, len(found.content))
    assert noise == found.content
    assert 2 == len(aws.answers)
    assert max(map(len, aws.answers)) < ANSWER_BYTES
    monkeypatch.setattr(type(context().pictures), "thumbnail", lambda *_: os.urandom(size))
    changed = there.get(f"/instances/{image}/thumbnail.png")
    assert (502, "the answer changed while it was read in parts: open the page again\n") == (
        changed.status_code,
        changed.text,
    )


def _series(client: httpx.Client) -> str:
    uid = client.get("/studies.json").json()["studies"][0]["study_instance_uid"]
    series: str = client.get(f"/studies/{uid}.json").json()["series"][0]["series_instance_uid"]
    return series


def test_part_of_an_answer_leaves_room_for_its_headers():
    """A part is whole in base64, so that parts can be joined, and far enough below the limit."""
    assert 0 == forwarded.PART_CHARACTERS % 4
    assert forwarded.PART_CHARACTERS < ANSWER_BYTES - 512 * 1024


def test_function_that_fails_is_a_page_that_says_so(there: httpx.Client, aws: Aws):
    """A time-out or a lost right is told in the browser, and the next page may work."""
    aws.planned = [
        (200, {"X-Amz-Function-Error": "Unhandled"}, b'{"errorType": "Sandbox.Timedout"}'),
        (403, {"x-amzn-ErrorType": "AccessDeniedException"}, b'{"Message": "no"}'),
    ]
    late, refused = there.get("/studies"), there.get("/studies")
    assert (502, "hospital-console did not end: Sandbox.Timedout\n") == (late.status_code, late.text)
    assert refused.text.startswith("AWS does not run hospital-console for you: AccessDeniedException")
    assert 200 == there.get("/studies").status_code


def test_caller_whom_aws_does_not_know_is_told(aws: Aws):
    """Keys that are no good stop the command before it serves."""
    aws.planned = [(403, {}, b"<ErrorResponse><Error><Code>InvalidClientTokenId</Code></Error></ErrorResponse>")]
    with pytest.raises(PermanentError, match="AWS does not know you: InvalidClientTokenId"):
        caller()
    assert INES == caller()


def test_function_of_the_console_imports_nothing_that_only_its_drawers_need(python: Callable[[str], str]):
    """A cold start waits for pages alone; what draws, the database's driver and AWS's clients come when asked for."""
    code = """
import sys
import dicomflow.console.function
unwanted = "alembic boto3 botocore.session dicomflow.cli dicomflow.edge imagecodecs numpy psycopg pydicom pynetdicom "
unwanted += "rich typer uvicorn"
print([name for name in unwanted.split() if name in sys.modules])
"""
    assert "[]" == python(code).strip()
