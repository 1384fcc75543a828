"""What a deployment costs, by gigabytes a day: `python -m infra.costs docs/costs.md` writes it from prices.toml."""

import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["MONTHS", "PRICES", "Prices", "idle", "load_prices", "main", "month", "page"]

PRICES: Final = Path(__file__).resolve().parent / "prices.toml"
MONTHS: Final = (1, 12, 36)
# Gigabytes a day, and what of Aurora is then awake: hours a day, ACUs. An assumption, from the times that work takes.
_RATES: Final = ((1, 2, 0.5), (10, 8, 1.0), (50, 12, 1.0), (200, 24, 2.0))
_FREE: Final = "nothing of its own"


@dataclass(frozen=True, slots=True)
class Prices:
    """Items that idle, prices of work, and what is assumed of the work."""

    items: tuple[Mapping[str, Any], ...]
    work: Mapping[str, float]
    assumed: Mapping[str, float]


def load_prices(path: Path = PRICES) -> Prices:
    """Read a file of prices."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    return Prices(tuple(document["item"]), document["work"], document["assumed"])


def idle(prices: Prices, **quantities: float) -> float:
    """Return what idles in a month, in USD; `quantities` are others than the default's, by the items' first words."""
    return sum(
        item["usd"] * quantities.get(item["name"].split(" ")[0].rstrip(":").lower(), item["idle"])
        for item in prices.items
    )


def month(
    prices: Prices, gb_a_day: float, hours: float, acus: float, number: int, *, archived: bool
) -> dict[str, float]:
    """Return what the month of a number costs, in USD by item, when so much arrived each day since the first."""
    work, assumed = prices.work, prices.assumed
    gb = gb_a_day * assumed["days"]
    images = gb * 1000 / assumed["image_mb"]
    older = gb * (number - 1)
    copy = gb * work["standard_gb"] + older * work["archive_gb" if archived else "standard_gb"]
    if archived and number > 1:
        copy += images / 1000 * work["transitions_per_1000"]
    in_store = assumed["stored_share_in_healthimaging"]
    return {
        "copy in S3": copy,
        "requests": images / 1000 * (work["puts_per_1000"] + 2 * work["gets_per_1000"]),
        "HealthImaging": in_store * (gb * work["healthimaging_gb"] + older * work["healthimaging_archive_gb"]),
        "catalog": hours * acus * assumed["days"] * work["acu_hour"],
        "functions and queues": images / 1e6 * work["calls_and_messages_per_million"],
        "idle": idle(prices),
    }


def rebuild(prices: Prices, gb_a_day: float, number: int, *, archived: bool) -> float:
    """Return what reading the header of every image costs after so many months."""
    images = gb_a_day * prices.assumed["days"] * number * 1000 / prices.assumed["image_mb"]
    return images / 1000 * prices.work["archive_gets_per_1000" if archived else "gets_per_1000"]


def page(prices: Prices) -> str:
    """Return docs/costs.md."""
    return "\n".join([*_head(prices), *_idle_table(prices), *_work_tables(prices), *_notes(prices)]) + "\n"


def _head(prices: Prices) -> list[str]:
    assumed = prices.assumed
    return [
        "# Costs",
        "",
        "Made by `.venv/bin/python -m infra.costs docs/costs.md` from [infra/prices.toml](../infra/prices.toml).",
        "List prices of us-east-1 in USD; nothing here was read from a bill: put your region's prices into the file.",
        (
            f"Assumed: images of {assumed['image_mb']:g} MB, {assumed['days']:g} days a month, and HealthImaging's own"
            f" compression to {assumed['stored_share_in_healthimaging']:.0%}."
        ),
        "",
    ]


def _idle_table(prices: Prices) -> list[str]:
    rows = [
        f"| {item['name']} | {item['idle']:g} | {item['usd']:g} for {item['unit']} | {item['idle'] * item['usd']:.2f} |"
        for item in prices.items
    ]
    private = idle(prices, endpoint=1)
    return [
        "## When nothing arrives",
        "",
        "config.py as it is, with its one edge.",
        "",
        "| What | How many | Price | USD a month |",
        "|---|---|---|---|",
        *rows,
        f"| **sum** | | | **{idle(prices):.2f}** |",
        "",
        f"With `private_endpoints` it is {private:.2f}: one interface endpoint in one zone.",
        "With an edge on EC2 the instance, its spool and a NAT gateway come on top, whatever arrives.",
        (
            f"With `fips_endpoints` and a VPC of the stack's own it is {idle(prices, nat=1):.2f}: a NAT gateway, since"
            " FIPS endpoints are called by IPv4; a VPC that is there brings its own way out."
        ),
        (
            "`db_engine_pause` 0 keeps the catalog awake: 8 ACU, the default's `min_acu_capacity`, are"
            f" {8 * 730 * prices.work['acu_hour']:.0f} a month."
        ),
        "",
    ]


def _work_tables(prices: Prices) -> list[str]:
    lines = ["## With work", "", "The copy in S3 moves to Glacier Instant Retrieval after a month."]
    for number in MONTHS:
        names = list(month(prices, 1, 1, 1, number, archived=True))
        lines += [
            "",
            f"Month {number}, USD:",
            "",
            f"| GB a day | {' | '.join(names)} | **sum** | without the archive |",
        ]
        lines.append("|" + "---|" * (len(names) + 3))
        for gb, hours, acus in _RATES:
            found = month(prices, gb, hours, acus, number, archived=True)
            plain = sum(month(prices, gb, hours, acus, number, archived=False).values())
            values = " | ".join(f"{value:,.0f}" for value in found.values())
            lines.append(f"| {gb} | {values} | **{sum(found.values()):,.0f}** | {plain:,.0f} |")
    awake = "; ".join(f"{gb} GB: {hours} h at {acus:g} ACU" for gb, hours, acus in _RATES)
    return [*lines, "", f"The catalog is awake so long a day (assumed): {awake}.", ""]


def _notes(prices: Prices) -> list[str]:
    archived, standard = (rebuild(prices, 200, 12, archived=each) for each in (True, False))
    return [
        "## What costs once",
        "",
        (
            f"`dicomflow catalog rebuild` reads every header: after a year of 200 GB a day {archived:,.0f} USD from"
            f" Glacier Instant Retrieval, {standard:,.0f} from Standard."
        ),
        "A study of 1,000 images and 500 MB that is read back costs 0.025 USD, at once and without a restore.",
        "Objects below 256 KB stay in Standard: their move would pay itself back after four months and more.",
        "With `retention_days` below `archive_after_days` and 90 nothing moves, since the class is billed for 90 days.",
        "",
        *_edge_logs(prices),
    ]


def _edge_logs(prices: Prices) -> list[str]:
    size, studies, months = prices.assumed["log_bytes_a_study"], 1000, 12
    gb = size * studies * prices.assumed["days"] / 1e9
    write, keep = prices.work["log_gb_written"], prices.work["log_gb_kept"]
    return [
        "## Logs of edges",
        "",
        "`logs_to_cloudwatch` is off by default.",
        f"With it CloudWatch charges {write:.2f} USD for a GB written, and {keep:.2f} for a GB kept a month.",
        (
            f"A study in an association of its own is {size:,.0f} bytes in an edge's log: {studies:,} studies a day are"
            f" {gb * 1000:,.0f} MB and {gb * (write + months * keep):.2f} USD a month, with what a year has kept."
        ),
        "Greengrass's nucleus wraps each line, which makes it somewhat longer.",
        "At `logLevel` DEBUG each image has a line: keep that from CloudWatch, or switch it back soon.",
        "An edge on EC2 in a network with `private_endpoints` needs one interface endpoint more, `logs`.",
    ]


def main() -> None:
    """Write the page to the file that is named."""
    Path(sys.argv[1]).write_text(page(load_prices()), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
