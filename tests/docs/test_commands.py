"""Every command that a document shows runs, or is named here with the reason why not."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dicomflow import cli

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.xdist_group("documents")  # one system for all
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(sh|console|sql)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`dicomflow ([a-z][^`\n]*)`")
SPOKEN = re.compile(
    r"`((?:sudo|aws|sh|docker|\.ci/run|scripts[/\\][a-z.]+|\.venv/bin/[^\s`]+|python[\d.]*|cdk|powershell|journalctl|systemctl"
    r"|pre-commit|curl|pip|openssl)(?: [^`\n]+)?)`"
)
"""What a text calls of other programs, in a span of its own."""
INDENTED = re.compile(r"^(?: {4}|\t)(?=[a-z./])", re.MULTILINE)

# What begins like this is run by another test, or cannot be run on one machine without AWS, root or Docker.
ELSEWHERE = {
    "scripts/deploy synth": "tests/walks/test_deploy.py::test_deploy_synth_in_a_fresh_clone_ends_with_the_stacks_name",
    "scripts/deploy": "needs AWS; tests/infra/test_deploy.py::test_first_deployment_is_made_unprotected_then_protected",
    "scripts/destroy": "needs AWS; tests/infra/test_deploy.py::test_destroy_of_what_can_go_asks_the_cdk",
    "scripts/demo": "tests/walks/test_run.py::test_newcomer_sees_a_study_in_the_console_within_three_minutes",
    "python3 -m pip wheel": "tests/walks/test_run.py::test_wheel_with_an_extra_has_its_commands",
    "python3 -m venv": "tests/walks/test_run.py::test_wheel_with_an_extra_has_its_commands",
    "/opt/dicomflow/bin/": "tests/walks/test_run.py::test_wheel_with_an_extra_has_its_commands",
    "scripts/bootstrap": "each walk of tests/walks/test_run.py and tests/walks/test_deploy.py begins with it",
    "scripts/test": "CI itself",
    ".venv/bin/python -m infra.greengrass": "tests/walks/test_deploy.py::test_greengrass_zip_is_made_as_documented",
    ".venv/bin/dicomflow local": "it is what these tests run against",
    ".venv/bin/dicomflow edge-install edge-1 --systemd": (
        "tests/walks/test_edge.py::test_systemd_edge_is_installed_upgraded_and_removed"
    ),
    ".venv/bin/dicomflow edge-install edge-1 --windows": (
        "needs AWS; tests/cli/test_edge_install.py::test_edge_install_for_windows_is_powershell"
    ),
    ".venv/bin/dicomflow edge-install edge-1 --region": (
        "needs AWS; tests/cli/test_edge_install.py::test_edge_install_runs_to_its_end_on_a_device"
    ),
    "git clone": "it is how the reader came to the document",
    "aws ": "needs AWS; tests/infra/test_documents.py::test_aws_commands_of_the_documents_are_its_own",
    "docker compose": "needs Docker; tests/docs/test_installing.py::test_containers_lines_name_what_there_is",
    "docker ": "needs Docker; tests/walks/test_edge.py::test_container_files_lines_make_an_edge_that_receives",
    "sudo ": "needs root, on a device",
    "export ": "a setting",
    "curl http://127.0.0.1:8080": "tests/edge/test_http.py asks the same of an edge",
}
# The same for what stands in a text, beside what stands in a block.
IN_A_TEXT = {
    "scripts/bench": "measures for minutes; docs/performance.md has what it said",
    "scripts/check": "tests/walks begin with what it checks; CI itself",
    "scripts/simulate": ".ci/run calls it; tests/simulation/test_simulation.py::test_run_of_a_seed_breaks_nothing",
    "scripts\\deploy.cmd": "needs Windows",
    ".ci/run": "CI itself",
    ".venv/bin/python -m infra.costs": "tests/infra/test_costs.py::test_page_is_what_the_prices_say",
    ".venv/bin/python -m dicomflow.cli.reference": "tests/cli/test_cli.py::test_reference_is_what_the_commands_say",
    ".venv/bin/python scripts/pictures.py": "tests/test_scripts.py::test_pictures_are_drawn_from_their_texts",
    "python -m dicomflow.edge.conformance": "tests/edge/test_conformance.py::test_statement_has_every_table_filled",
    "python -m infra.app": "tests/infra/test_synthesis.py, which calls nothing else",
    "python -X importtime": "measures; docs/performance.md has what it said",
    "cdk deploy": "tests/walks/test_deploy.py::test_cdk_commands_app_is_the_one_of_the_activated_environment",
    "pip install": "tests/walks/test_run.py::test_wheel_with_an_extra_has_its_commands",
    "python3 -m pip download": "tests/walks/test_run.py::test_wheel_with_an_extra_has_its_commands",
    "pre-commit install": "of a contributor's own clone",
    "sh edge-install": "tests/walks/test_edge.py::test_systemd_edge_is_installed_upgraded_and_removed",
    "journalctl": "needs systemd, on a device",
}
# Programs that run until they are stopped: tests/test_docs.py checks their options, and they have tests of their own.
DAEMONS = {
    "local",
    "edge",
    "archive",
    "worker",
    "simulator",
    "console",
    "edge-install",
    "edge-remove",
}
# Placeholders of inline commands: a document may write what it likes there.
WORDS = {
    "HOST": "127.0.0.1",
    "NUMBER": "1",
    "NAME": "ct1",
    "WORDS": "nobody",
    "SQL": "SELECT 1",
    "COMMAND": "status",
    "VALUE": "x",
    "…": "",
    "...": "",
}


def _lines(document: Path) -> list[tuple[str, str]]:
    """Return language and command of each line of a document's blocks; a line that ends in a backslash goes on."""
    found = []
    for language, block in BLOCK.findall(document.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ").partition("    #")[0].strip() if language != "sql" else line.strip()
            if command and not command.startswith("#"):
                found.append((language, command))
    return found


COMMANDS = [
    pytest.param(language, command, id=f"{document.relative_to(ROOT)}: {command}")
    for document in DOCUMENTS
    for language, command in _lines(document)
    if not any(command.startswith(start) for start in ELSEWHERE)
]
INLINES = sorted({call for document in DOCUMENTS for call in INLINE.findall(document.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("start", [*ELSEWHERE, *IN_A_TEXT])
def test_walk_that_a_command_is_left_to_is_there(start: str):
    """What is run elsewhere is run by a test that exists, and is shown by a document."""
    reason = (ELSEWHERE | IN_A_TEXT)[start]
    for file, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", reason):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
    assert all((ROOT / file).exists() for file in re.findall(r"tests/[\w/]+\.py", reason))
    shown = [command for document in DOCUMENTS for _, command in _lines(document)]
    shown += [call for document in DOCUMENTS for call in SPOKEN.findall(document.read_text(encoding="utf-8"))]
    assert any(command.startswith(start) for command in shown)


@pytest.mark.parametrize(
    "document",
    # Decisions tell what was done once, and the command line's reference is made from its help.
    [each for each in DOCUMENTS if "decisions" not in each.parts and each.name != "cli.md"],
    ids=lambda document: str(document.relative_to(ROOT)),
)
def test_command_in_a_text_belongs_to_a_walk(document: Path):
    """What a text calls beside our own commands is run somewhere, or says why not; none hides by indentation."""
    text = document.read_text(encoding="utf-8")
    starts = (*ELSEWHERE, *IN_A_TEXT)
    assert [] == [call for call in SPOKEN.findall(text) if " " in call and not call.startswith(starts)]
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert [] == [outside[found.start() :].splitlines()[0] for found in INDENTED.finditer(outside)]


@pytest.mark.parametrize(("language", "command"), COMMANDS)
def test_command_of_a_block_runs(language: str, command: str, site: Any, tmp_path: Path):
    """A command line, with this machine's ports and folders in the places of the document's, ends with 0."""
    if language == "sql":
        assert 0 == cli.run(["query", command.partition("--")[0].rstrip("; "), "--data", str(site.daemon.data)])
        return
    for theirs, ours in {
        "~/images/*.dcm": " ".join(map(str, sorted(site.images.glob("*.dcm")))),
        "~/images": str(site.images),
        "/var/lib/dicomflow": str(site.daemon.data),
        "127.0.0.1 11112": f"127.0.0.1 {site.daemon.port}",
        "EDGE_IP_ADDRESS 11112": f"127.0.0.1 {site.daemon.port}",
        "127.0.0.1:8042": f"127.0.0.1:{site.daemon.http_port}",
        " FOLDER": f" {site.images}",
        " *.dcm": " " + " ".join(map(str, sorted(site.images.glob("*.dcm")))),
        ".venv/bin/": f"{Path(sys.executable).parent}/",
    }.items():
        command = command.replace(theirs, ours)
    for program in ("storescu", "curl"):
        if program in command and shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DICOMFLOW_")}
    result = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert 0 == result.returncode, result.stderr


@pytest.mark.parametrize("call", INLINES)
def test_command_in_a_text_is_called_rightly(call: str, site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What a text calls is a command with these arguments; placeholders are filled in."""
    for name in ("DICOMFLOW_DATABASE_URL", "DICOMFLOW_STORE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a passcode\n"))
    arguments = _fill_in(call, site)
    name = arguments[0]
    if name in DAEMONS or name.isupper() or "retry" in arguments or _is_only_named(call):
        cli.load_command(WORDS.get(name, name))
        return
    assert 2 != cli.run(arguments) or "delete-study" in arguments, arguments


def _is_only_named(call: str) -> bool:
    """Tell whether a text speaks of a command that needs arguments, or of a group, and does not call it."""
    words = call.split()
    group = getattr(cli.load_command(words[0]), "commands", {}) if words[0] in cli.COMMANDS else {}
    is_path = len(words) == 1 or (len(words) == 2 and words[1] in group)
    needs = [parameter for parameter in _parameters(words) if parameter.required]
    return is_path and (bool(needs) or (len(words) == 1 and bool(group)))


def _fill_in(call: str, site: Any) -> list[str]:
    """Return the arguments of a call, with something in each placeholder's place, and the data folder where due."""
    uid = site.daemon.query("SELECT sop_instance_uid FROM instance")[0][0]
    study = site.daemon.query("SELECT study_instance_uid FROM study")[0][0]
    if "delete-study" in call:
        study = "1.2.3"  # another test wants the one that is there
    values = WORDS | {
        "UID": study if "delete-study" in call or "imports" in call else uid,
        "DIR": str(site.daemon.data),
        "PORT": str(site.daemon.port),
        "PATH": str(site.images),
        "PATH…": str(site.images),
        "FILE": str(site.edge_toml),
        "edge.toml": str(site.edge_toml),
        "/etc/dicomflow/edge.toml": str(site.edge_toml),
        "/var/lib/dicomflow": str(site.daemon.data),
    }
    arguments = [values.get(word, word) for word in shlex.split(call)]
    arguments = [word for word in arguments if word]
    takes = {option for parameter in _parameters(arguments) for option in parameter.opts}
    if "--data" in takes and not {"--data", "--config", "--worker", "--database-url"} & set(arguments):
        arguments += ["--data", str(site.daemon.data)]
    if arguments[0] == "doctor" and "--data" in arguments:
        arguments += ["--port", str(site.daemon.port), "--http-port", str(site.daemon.http_port)]
    if arguments[0] == "doctor":
        arguments.append("--quick")
    return arguments


def _parameters(arguments: list[str]) -> list[Any]:
    """Return the parameters of the command that is called."""
    if arguments[0] not in cli.COMMANDS:
        return []
    command = cli.load_command(arguments[0])
    if len(arguments) > 1:
        command = getattr(command, "commands", {}).get(arguments[1], command)
    parameters: list[Any] = command.params
    return parameters
