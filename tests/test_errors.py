"""An error arrives in another process as it was."""

import pickle

import pytest

from streamrt import errors

ERRORS = [
    errors.BudgetError("too small", 4096),
    errors.ModelTooLargeError("too large", 8192),
    errors.UnsupportedModelError(["one", "two"]),
    *(
        getattr(errors, name)("why")
        for name in errors.__all__
        if name not in ("BudgetError", "ModelTooLargeError", "UnsupportedModelError")
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_pickle(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
