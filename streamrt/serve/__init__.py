"""``streamrt serve``: the models of a folder over HTTP, under one budget (extra ``serve``).

Data flows through it like this::

    app         routes; on the event loop, which never waits for anything but sockets and futures
    http        bodies in, answers out, errors to status codes
    access      who may, and how much at once
    protocol    the Open Inference Protocol: bytes to tensors and back; pure, without HTTP
    predictions the same for multi-model-server's `POST /predictions`
    catalog     which models are served; folder: which files may be
    batching    requests that wait, and the threads that serve them with the pool

`metrics` and `logs` watch, `settings` has every limit, `main` runs it all.
"""
