"""`python -m dicomflow`: the same as the command `dicomflow`."""

from dicomflow.cli import main

if __name__ == "__main__":
    main()
