"""RESOURCE_TAGS: what every resource is tagged with, within what all services of the stack take."""

from typing import Annotated, Final

from pydantic import AfterValidator, Field, field_validator

from infra.values import Section, text

__all__ = ["ResourceTags"]

# A resource has 50: one is the stack's own, and the CDK names subnets with three of its own.
_MAX_TAGS: Final = 45
_OWN_TAG: Final = "application"


def _not_of_aws(name: str) -> str:
    if name.lower().startswith("aws:"):
        raise ValueError(f"{name!r}; names that begin with aws: are AWS's own")
    return name


# Narrower than elsewhere: Greengrass takes no others.
TagName = Annotated[
    str,
    text(r"[A-Za-z0-9.:/=+_-]{1,128}", "1 to 128 letters, digits and . : / = + _ -, and no blank"),
    AfterValidator(_not_of_aws),
]
TagValue = Annotated[str, text(r"[\w .:/=+@-]{0,256}", "up to 256 letters, digits, blanks and . : / = + @ _ -")]


class ResourceTags(Section):
    """RESOURCE_TAGS."""

    tag_list: dict[TagName, TagValue] = Field(default_factory=dict)

    @field_validator("tag_list")
    @classmethod
    def _is_not_too_long(cls, tags: dict[str, str]) -> dict[str, str]:
        if len(tags) > _MAX_TAGS:
            raise ValueError(f"{len(tags)} tags; {_MAX_TAGS} at most, beside those that the stack sets itself")
        if _OWN_TAG in {name.lower() for name in tags}:
            raise ValueError(f"{_OWN_TAG!r} is a tag that the stack sets itself, to its name: choose another name")
        # IAM does not tell tags apart by case.
        alike = [name for name in tags if any(name != other and name.lower() == other.lower() for other in tags)]
        if alike:
            raise ValueError(f"{' and '.join(map(repr, alike))} differ only in case, which IAM does not tell apart")
        return tags
