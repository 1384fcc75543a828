"""Rights: each is given by itself."""

import pytest

from dicomflow.archive.access import Principal, Right
from dicomflow.archive.errors import NotAllowedError


@pytest.mark.parametrize("right", list(Right))
def test_principal_has_the_rights_it_was_given_and_no_other(right: Right):
    """Who may do one thing may do neither of the others."""
    principal = Principal("web:ada", frozenset({right}))
    principal.require(right)
    for other in set(Right) - {right}:
        with pytest.raises(NotAllowedError, match=f"no right to {other}"):
            principal.require(other)
