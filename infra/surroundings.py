"""NETWORK_CONFIG and ACCOUNT_CONFIG: what an account has and demands before the stack is there."""

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from infra.values import Section, text

__all__ = ["AccountConfig", "NetworkConfig"]

_ZONES: Final = 2  # Aurora wants subnets in two
_ID: Final = r"-([\da-f]{8}|[\da-f]{17})"
_Zone = Annotated[str, text(r"[a-z]{2}(-[a-z]+)+-\d[a-z]", "the name of a zone, such as us-east-1a, not its id")]
_Subnet = Annotated[str, text(rf"subnet{_ID}", "subnet- and 8 or 17 digits of its id")]
_Group = Annotated[str, text(rf"(sg{_ID})?", "nothing, or sg- and 8 or 17 digits of its id")]


class NetworkConfig(Section):
    """NETWORK_CONFIG."""

    private_endpoints: bool = False
    zones: tuple[_Zone, ...] = ()
    vpc_id: Annotated[str, text(rf"(vpc{_ID})?", "nothing, or vpc- and 8 or 17 digits of its id")] = ""
    function_subnets: dict[_Zone, _Subnet] = Field(default_factory=dict)
    database_subnets: dict[_Zone, _Subnet] = Field(default_factory=dict)
    function_group: _Group = ""
    database_group: _Group = ""
    edge_group: _Group = ""

    @model_validator(mode="after")
    def _has_zones(self) -> Self:
        if self.zones and self.vpc_id:
            raise ValueError("zones are for the VPC that is made; with vpc_id each subnet names its own")
        if self.zones and len(set(self.zones)) != _ZONES:
            raise ValueError(f"zones has {len(set(self.zones))} of them; it must have two, or none for the first two")
        regions = {zone[:-1] for zone in (*self.zones, *self.function_subnets, *self.database_subnets)}
        if len(regions) > 1:
            raise ValueError(f"zones of {' and '.join(sorted(regions))}; they must be of one region")
        return self

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = [name for name in ("function_subnets", "database_subnets") if getattr(self, name)]
        groups = [name for name in ("function_group", "database_group", "edge_group") if getattr(self, name)]
        if not self.vpc_id and (given or groups):
            raise ValueError(f"{(given + groups)[0]} is of a VPC that is there; give its vpc_id too")
        if self.vpc_id and not self.function_subnets:
            raise ValueError("with vpc_id, function_subnets must have a subnet at least: {zone: subnet}")
        if self.vpc_id and len(self.database_subnets) < _ZONES:
            raise ValueError("with vpc_id, database_subnets must have subnets in two zones at least: {zone: subnet}")
        for name in ("function_subnets", "database_subnets"):
            subnets = list(getattr(self, name).values())
            if twice := [each for each in subnets if subnets.count(each) > 1]:
                raise ValueError(f"{name} has {twice[0]} in two zones; a subnet lies in one")
        if bool(self.function_group) != bool(self.database_group):
            raise ValueError("function_group and database_group belong together: give both or neither")
        return self

    @property
    def region(self) -> str | None:
        """The region of the zones that are named."""
        return next((zone[:-1] for zone in (*self.zones, *self.function_subnets)), None)


class AccountConfig(Section):
    """ACCOUNT_CONFIG."""

    permissions_boundary: Annotated[
        str,
        text(
            r"([\w+=,.@-]{1,128}|arn:aws[\w-]*:iam::(\d{12}|aws):policy/[\w+=,.@/-]{1,128})?",
            "nothing, or the name or the ARN of a managed policy",
        ),
    ] = ""
    bootstrap_qualifier: Annotated[str, text(r"[a-z\d]{0,10}", "up to 10 small letters and digits")] = ""
    fips_endpoints: bool = False
