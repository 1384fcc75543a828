"""Settings of sources, which are asked what they have, and of the hours in which something may be done."""

import re
from datetime import datetime
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from dicomflow.network.settings import AeTitle, ClientTls, Section

__all__ = ["BandwidthRule", "Hours", "Source", "SourceName"]

_NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


class Hours(Section):
    """Some hours: `days` counts from 0 for Monday, `from_hour` up to `to_hour` in the edge's local time.

    With a `to_hour` below `from_hour` they go over midnight, into the day after each of `days`.
    """

    days: frozenset[Annotated[int, Field(ge=0, le=6)]] = Field(frozenset(range(7)), min_length=1)
    from_hour: int = Field(0, ge=0, le=23)
    to_hour: int = Field(24, ge=0, le=24)

    @model_validator(mode="after")
    def _holds_at_some_time(self) -> Self:
        if self.from_hour == self.to_hour:
            raise ValueError(f"from_hour and to_hour are both {self.from_hour}: the rule would never be in force")
        return self

    def hold_at(self, moment: datetime) -> bool:
        """Tell whether a local time is within them."""
        today, yesterday = moment.weekday(), (moment.weekday() - 1) % 7
        if self.from_hour < self.to_hour:
            return today in self.days and self.from_hour <= moment.hour < self.to_hour
        return (today in self.days and moment.hour >= self.from_hour) or (
            yesterday in self.days and moment.hour < self.to_hour
        )


class BandwidthRule(Hours):
    """A limit for some hours."""

    max_bytes_per_second: int = Field(ge=0)


class Source(Section):
    """A PACS that is asked what it has, and from which what is missing here is fetched.

    Images come to the edge's own receiver: by C-MOVE to `move_destination`, the AE title under which the source knows
    this edge, or by C-GET where there is none. `hours` are those in which images are fetched; `nightly` is the time
    of the day at which the last days are compared. `calling_ae_title` is the edge's own unless said.
    """

    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    ae_title: AeTitle
    calling_ae_title: AeTitle | None = None
    move_destination: AeTitle | None = None
    tls: bool | ClientTls = False
    associations: int = Field(2, ge=1, le=16)
    timeout_seconds: float = Field(300.0, gt=0)
    stall_seconds: float = Field(600.0, gt=0)
    quiet_seconds: float = Field(5.0, gt=0)
    hours: tuple[Hours, ...] = ()
    max_bytes_per_second: int = Field(0, ge=0)
    bandwidth: tuple[BandwidthRule, ...] = ()
    nightly: str | None = Field(None, pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    nightly_days: int = Field(8, ge=1, le=366)


def _checked_source(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"a source's name matches {_NAME.pattern}")
    return name


SourceName = Annotated[str, AfterValidator(_checked_source)]
