"""What the documents name exists, and every command is documented."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from dicomflow import cli
from dicomflow.pipeline.settings import PipelineSettings

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")],
)
SOURCES = [
    path
    for folder in ("src", "tests", "scripts", ".ci", "bench")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix in {"", ".py", ".toml", ".sh"} and path != Path(__file__)
]
CALL = re.compile(r"(?:`|bin/)dicomflow ([a-z][a-z-]*)((?: [^`\n#]*)?)")
SETTING = re.compile(r"\bDICOMFLOW_[A-Z0-9_]+")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
SCRIPT = re.compile(r"(?<![\w/.])(?:scripts|\.ci)/[a-z]+\b(?:\.py)?")
MODULE = re.compile(r"`((?:src|tests|bench|[a-z]+)/[a-z_/]+\.py)`")


def _text(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def _name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def _settings(model: type[BaseModel], prefix: str) -> list[str]:
    """Return the environment variables of a settings model."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        variable = f"{prefix}__{name.upper()}" if prefix != "DICOMFLOW" else f"DICOMFLOW_{name.upper()}"
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        names += _settings(field.annotation, variable) if is_section else [variable]
    return names


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_command_is_in_the_readme(name: str):
    """The README shows how each command is called."""
    assert re.search(f"`dicomflow {name}[ `]", _text(ROOT / "README.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_commands_and_options_in_document_exist(document: Path):
    """Each `dicomflow x --option` in a document is a command with that option."""
    for name, arguments in CALL.findall(_text(document)):
        assert name in cli.COMMANDS, f"there is no command {name!r}"
        options = re.findall(r"--[a-z][a-z-]*", arguments)
        unknown = [option for option in options if option not in _options(name)]
        assert [] == unknown, f"dicomflow {name} has no such option"


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_settings_in_document_exist(document: Path):
    """Each environment variable that a document names is a setting, or read somewhere."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    unknown = set(SETTING.findall(_text(document))) - set(_settings(PipelineSettings, "DICOMFLOW"))
    assert [] == sorted(name for name in unknown if name not in source)


@pytest.mark.parametrize("name", _settings(PipelineSettings, "DICOMFLOW"))
def test_setting_of_the_pipeline_is_documented(name: str):
    """Each setting appears in the operations manual with what it sets."""
    assert f"| `{name}` |" in _text(ROOT / "docs" / "operations.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_in_document_lead_somewhere(document: Path):
    """Each relative link leads to a file or folder."""
    targets = [target for target in LINK.findall(_text(document)) if "://" not in target]
    assert [] == [target for target in targets if not (document.parent / target).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_files_in_document_exist(document: Path):
    """Each script and module that a document names is there."""
    text = _text(document)
    assert [] == sorted(name for name in set(SCRIPT.findall(text)) if not (ROOT / name).is_file())
    places = (ROOT, ROOT / "src" / "dicomflow", ROOT / "src")
    modules = set(MODULE.findall(text))
    assert [] == sorted(name for name in modules if not any((place / name).is_file() for place in places))


def test_changelog_has_an_entry_for_this_version():
    """The version that is installed has a section in the changelog."""
    from dicomflow import __version__

    assert f"\n## {__version__}" in _text(ROOT / "CHANGELOG.md")


def test_decisions_have_a_number_each_and_their_four_parts():
    """Each decision is in the index, and has its context, the decision, the evidence and what would change our mind."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert len(decisions) == len({path.name[:4] for path in decisions})
    index = _text(ROOT / "docs" / "decisions" / "README.md")
    for path in decisions:
        text = _text(path)
        title = text.partition("\n")[0]
        assert title.startswith(f"# {path.name[:4]}: ")
        assert f"- [{path.name[:4]}]({path.name}): {title[8:]}\n" in index
        for part in ("Context", "Decision", "Evidence", "What would change our mind"):
            assert f"\n## {part}\n" in text, f"{path.name} lacks {part!r}"


def _options(name: str) -> set[str]:
    """Return the options of a command, as its help lists them."""
    found = cli.load_command(name)
    commands = list(getattr(found, "commands", {}).values()) or [found]
    parameters = [parameter for command in commands for parameter in command.params]
    return {option for parameter in parameters for option in [*parameter.opts, *parameter.secondary_opts]}
