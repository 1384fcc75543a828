"""What the sections of config.py have in common: they are closed, and a text that is wrong is told in words."""

import re

from pydantic import AfterValidator, BaseModel, ConfigDict

__all__ = ["Section", "text"]


class Section(BaseModel):
    """A section: it cannot be changed, and knows no parameter but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def text(pattern: str, rule: str) -> AfterValidator:
    """Return a validator that says the rule in words."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            told = re.sub(r"(?<=//)[^/@]*@", "[user]@", value)  # a proxy's, which may have a passcode
            raise ValueError(f"{told!r}; it must have {rule}")
        return value

    return AfterValidator(check)
