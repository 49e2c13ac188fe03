"""``streamrt serve``: the models of a folder over HTTP, under one budget (extra ``serve``).

From a request to its answer::

    app          the application
    v2, mms      routes of the Open Inference Protocol, and those that multi-model-server's users know
    http         bodies in, errors out, the log of requests
    connection   no client is waited for without end
    access       who may, and how many bytes at once
    inference    a request for a model, whatever its form
    protocol     the Open Inference Protocol's bytes to tensors and back; pure
    predictions  the same for ``POST /predictions``
    service      what all of them share: the pool, and threads for what may block
    catalog      which models are served; folder: which files may be
    batching     requests that wait, and the threads that serve them

`metrics` and `logs` watch, `settings` has every limit, `main` runs it all.
"""
