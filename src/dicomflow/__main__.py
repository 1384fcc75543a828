"""`python -m dicomflow`: the same as the command `dicomflow`."""

__all__ = ["main"]


def main() -> None:
    """Run the command line.

    Each process that the edge starts imports this module again, and needs nothing of the command line: so the import.
    """
    from dicomflow.cli import main as run  # noqa: PLC0415  # as above

    run()


if __name__ == "__main__":
    main()
