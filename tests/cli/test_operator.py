"""`dicomflow --stack NAME`: a command that runs in a deployed stack, as it would here."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dicomflow.cli.operator import FORWARDED, operator, split_stack

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what the function sets for good in a process of its own."""
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def catalog(run: Run, tmp_path: Path) -> str:
    """Give the URL of a catalog without rows."""
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    assert 0 == run("migrate", "--database-url", url)[0]
    return url


@pytest.fixture
def lambda_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Serve Lambda's Invoke for one function, and give the answers it is to make in place of the function's own."""
    planned: list[Any] = []

    class Invoke(BaseHTTPRequestHandler):
        """POST /2015-03-31/functions/NAME/invocations."""

        def do_POST(self) -> None:
            """Run the command, or answer as planned."""
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, body = 200, {}, b""
            if self.path != "/2015-03-31/functions/hospital-operator/invocations":
                status, headers = 404, {"x-amzn-ErrorType": "ResourceNotFoundException"}
                body = b'{"Message": "Function not found"}'
            elif planned:
                headers, body = {"X-Amz-Function-Error": "Unhandled"}, json.dumps(planned.pop()).encode()
            else:
                body = json.dumps(operator(event)).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Invoke)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    yield planned
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "arguments",
    [
        ("imports", "list", "--json"),
        ("imports", "retry", "--all"),
        ("catalog", "studies", "--name", "Müller"),
        ("query", "--seed", "SELECT * FROM Ahlijob"),
        ("imports", "show", "77"),
        ("imports", "retry", "77"),
        ("imports", "nonsense"),
    ],
    ids=" ".join,
)
def test_command_on_a_stack_says_and_ends_as_here(
    catalog: str, lambda_service: list[Any], run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
):
    """Output, errors and exit code are those of the command where the catalog is."""
    monkeypatch.setenv("DICOMFLOW_DATABASE_URL", catalog)
    here = run(*arguments)
    assert here == run("--stack", "hospital", *arguments)


@pytest.mark.parametrize("command", ["edge", "local", "migrate", "edge-install", "worker", "users"])
def test_command_that_is_no_catalogs_does_not_run_on_a_stack(lambda_service: list[Any], run: Run, command: str):
    """It is refused before AWS is asked, and by the function itself if it is asked."""
    code, output, errors = run("--stack", "hospital", command)
    assert (1, "") == (code, output)
    assert f"{command} does not run on a stack; {', '.join(FORWARDED)} do" in errors
    assert 2 == operator({"arguments": [command]})["code"]
    assert 2 == operator({})["code"]


def test_console_of_a_stack_is_asked_for_the_other_way_round(lambda_service: list[Any], run: Run):
    """Who puts the stack first is told where it belongs."""
    code, _, errors = run("--stack", "hospital", "console")
    assert (1, True) == (code, "dicomflow console --stack NAME" in errors)


def test_stack_that_is_not_there_is_said(lambda_service: list[Any], run: Run):
    """The name of the function, and AWS's own code."""
    code, _, errors = run("--stack", "clinic", "status")
    assert 1 == code
    assert "AWS does not run clinic-operator for you: ResourceNotFoundException" in errors


def test_function_that_did_not_end_is_no_answer(lambda_service: list[Any], run: Run):
    """A time-out is told as such, and nothing is shown as a result."""
    lambda_service.append({"errorType": "Sandbox.Timedout", "errorMessage": "Task timed out"})
    code, output, errors = run("--stack", "hospital", "imports", "list")
    assert (1, "") == (code, output)
    assert "hospital-operator did not end: Sandbox.Timedout" in errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--stack", "a", "imports", "list"], ("a", ["imports", "list"])),
        (["--log-level", "DEBUG", "--stack=a", "status"], ("a", ["--log-level", "DEBUG", "status"])),
        (["edge-install", "ct", "--stack", "a"], None),  # a command's own option
        (["imports", "list"], None),
        (["--stack"], None),
        ([], None),
    ],
)
def test_stack_is_an_option_before_the_command(arguments: list[str], expected: Any):
    """What stands after the command is the command's."""
    assert expected == split_stack(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("catalog", "rebuild", "--store-url", "file:///proc/self"),
        ("query", "--database-url=sqlite:////etc/passwd", "SELECT 1"),
        ("status", "--data", "/tmp"),
        ("imports", "retry", "--all", "--drive-queue-url", "https://sqs.us-east-1.amazonaws.com/1/x"),
    ],
)
def test_function_opens_what_is_the_stacks_alone(arguments: tuple[str, ...]):
    """A caller chooses a command, not the database, files or queue that the function's rights reach."""
    answer = operator({"arguments": list(arguments)})
    assert (2, "") == (answer["code"], answer["output"])
    assert "is the stack's own" in answer["errors"]
