"""A deployed stack's operator: commands run in a function in the VPC, asked by whoever IAM lets, from any machine.

Nothing listens: `dicomflow --stack NAME COMMAND…` calls the function through AWS's API, and CloudTrail can say who did.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dicomflow.errors import PermanentError, TransientError

__all__ = ["FORWARDED", "caller", "function_of", "operator", "run_on_stack", "split_stack"]

FORWARDED: Final = ("status", "query", "imports", "transfers", "catalog")
"""The commands on a catalog; the others are of a machine's own files."""
_OF_THE_FUNCTION: Final = frozenset({"--data", "--database-url", "--drive-queue-url", "--store-url"})
"""Where a stack has its catalog, objects and queues: another place would be opened with the function's rights."""
_READ_SECONDS: Final = 910  # a function has fifteen minutes
_WIDTH: Final = "160"


def split_stack(arguments: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return the stack that stands before the command, and all else; None without one."""
    rest: list[str] = []
    left = list(arguments)
    while left and left[0].startswith("-"):
        option = left.pop(0)
        if option == "--stack" and left:
            return left.pop(0), rest + left
        if option.startswith("--stack="):
            return option.partition("=")[2], rest + left
        rest.append(option)
        if option == "--log-level" and left:
            rest.append(left.pop(0))
    return None


def run_on_stack(stack: str, arguments: Sequence[str]) -> int:
    """Run a command in a stack's operator function, show what it said, and return its exit code.

    Raises:
        PermanentError: the command is not one of a catalog, or AWS refuses.
        TransientError: AWS cannot be reached, or the function did not end.
    """
    _check(arguments)
    told = function_of(stack, "operator", read_seconds=_READ_SECONDS)({"arguments": list(arguments)})
    sys.stdout.write(told["output"])
    sys.stderr.write(told["errors"])
    return int(told["code"])


def function_of(
    stack: str, name: str, *, read_seconds: int, attempts: int = 1
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return what calls one of a stack's functions with an event and gives back its result. Threads: any.

    Raises:
        PermanentError: when it is called: AWS refuses.
        TransientError: AWS cannot be reached, or the function did not end.
    """
    import botocore.exceptions  # noqa: PLC0415  # a third of a second
    import botocore.session  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    function = f"{stack}-{name}"
    config = Config(read_timeout=read_seconds, retries={"mode": "standard", "total_max_attempts": attempts})
    try:
        session = botocore.session.Session()
        client: Any = session.create_client("lambda", region_name=os.environ.get("AWS_REGION"), config=config)
    except botocore.exceptions.BotoCoreError as error:
        raise TransientError(f"AWS cannot be asked: {error}") from error

    def call(event: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = client.invoke(FunctionName=function, Payload=json.dumps(event).encode())
        except botocore.exceptions.ClientError as error:
            code = error.response["Error"].get("Code", "Unknown")
            raise PermanentError(f"AWS does not run {function} for you: {code}; is {stack} deployed there?") from error
        except botocore.exceptions.BotoCoreError as error:
            raise TransientError(f"AWS cannot be asked: {error}") from error
        told: dict[str, Any] = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            raise TransientError(f"{function} did not end: {told.get('errorType', 'unknown')}")
        return told

    return call


def caller() -> str:
    """Return whom AWS knows this machine's credentials as, as `assumed-role/Operators/ines`.

    Raises:
        PermanentError: AWS refuses them.
        TransientError: there are none, or AWS cannot be reached.
    """
    import botocore.exceptions  # noqa: PLC0415  # as above
    import botocore.session  # noqa: PLC0415

    try:
        client: Any = botocore.session.Session().create_client("sts", region_name=os.environ.get("AWS_REGION"))
        arn: str = client.get_caller_identity()["Arn"]
    except botocore.exceptions.ClientError as error:
        raise PermanentError(f"AWS does not know you: {error.response['Error'].get('Code', 'Unknown')}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise TransientError(f"AWS cannot be asked: {error}") from error
    return arn.split(":", 5)[-1]


def operator(event: Mapping[str, Any], _context: object = None) -> dict[str, Any]:
    """Run a command in this process; the handler of the operator's function."""
    from dicomflow import cli  # noqa: PLC0415  # which imports this module

    arguments = [str(each) for each in event.get("arguments", ())]
    output, errors = io.StringIO(), io.StringIO()
    os.environ.setdefault("COLUMNS", _WIDTH)
    try:
        _check(arguments)
    except PermanentError as error:
        return {"code": 2, "output": "", "errors": f"dicomflow: {error}\n"}
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = cli.run(arguments)
    return {"code": code, "output": output.getvalue(), "errors": errors.getvalue()}


def _check(arguments: Sequence[str]) -> None:
    own = sorted({each.partition("=")[0] for each in arguments} & _OF_THE_FUNCTION)
    if own:
        raise PermanentError(f"{own[0]} is the stack's own: what a caller names is not opened")
    command = next((each for each in arguments if not each.startswith("-")), "")
    if command == "console":
        raise PermanentError("the console runs here, over a stack: dicomflow console --stack NAME")
    if command not in FORWARDED:
        raise PermanentError(f"{command or 'nothing'} does not run on a stack; {', '.join(FORWARDED)} do")
