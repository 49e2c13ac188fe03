"""A function for AWS Lambda: the model is opened once a cold start, and answers every event until the process ends.

Lambda's runtime client imports this module when a process starts, and then calls `handler` with one event after the
other. So what a module does at its top happens once.
"""

from __future__ import annotations

from typing import Any

import http_events
import opening
import tensors

#: An error here is reported as an error of the start, with its type and text, and Lambda starts another process.
_model = opening.open_model()


def handler(event: Any, context: Any) -> dict[str, Any]:
    """The answer to an event: of HTTP, or with tensors (`tensors`). ``context`` is Lambda's, and is not needed.

    Raises:
        streamrt.serve.refusal.ProtocolError, streamrt.InputError: the event is not of the form that is expected, or
            does not fit the model. The caller gets type and text. HTTP gets them in a body with status 400.
    """
    if http_events.is_one(event):
        return http_events.answer(_model, event)
    return tensors.answer(_model, event)
