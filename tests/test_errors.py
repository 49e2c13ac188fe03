"""An error arrives unchanged in another process, and its text is safe to show on a terminal."""

import pickle

import pytest

from streamrt import errors

ERRORS = [
    errors.BudgetError("too small", 4096),
    errors.ModelTooLargeError("too large", 8192),
    errors.PinError("does not fit", 8192, 4096, 1024),
    errors.UnsupportedModelError(["one", "two"]),
    *(
        getattr(errors, name)("why")
        for name in errors.__all__
        if name not in ("BudgetError", "ModelTooLargeError", "PinError", "UnsupportedModelError")
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_pickle(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("kind", [errors.FormatError, errors.UnsupportedModelError])
def test_quoted_text_is_printable(kind: type[errors.FormatError | errors.UnsupportedModelError]) -> None:
    error = kind("node 'n' (\x1b]0;owned\x07) reads\x7f \u202ex")
    for text in (str(error), str(pickle.loads(pickle.dumps(error)))):
        assert text == "node 'n' (\\x1b]0;owned\\x07) reads\\x7f \\u202ex"
