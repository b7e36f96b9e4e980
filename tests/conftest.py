"""What all tests share: fresh random examples at each run, and a way to the companion's own error messages."""

import jaxtyping
import pytest
from hypothesis import settings

settings.register_profile("course", deadline=None, max_examples=25, print_blob=True)
settings.load_profile("course")


@pytest.fixture
def own_errors():
    """Switches the checking of signatures off, which a reader does not have and which would speak up first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
