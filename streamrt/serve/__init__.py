"""``streamrt serve``: the models of a folder over HTTP and gRPC, under one budget (extras ``serve`` and ``grpc``).

From a request to its answer::

    app          the application
    v2, mms      routes of the Open Inference Protocol, and of multi-model-server
    page         the page at ``/``, which reads the metrics
    http         bodies, errors, and the log of requests
    connection   deadlines for clients, and the limit on their connections
    access       the token, connections, and the bytes that requests may hold
    inference    a request for a model, in either protocol
    answers      answers to the other calls of the Open Inference Protocol
    protocol     bytes of the Open Inference Protocol to tensors and back; pure
    predictions  bytes of ``POST /predictions`` to tensors and back; pure
    service      shared by all of them: the pool, and threads for calls that block
    catalog      which models are served
    folder       which files may be served
    refreshing   notices files that come, change and go
    batching     queues of requests, and the threads that serve them

`rpc` has the Open Inference Protocol over gRPC. `metrics` and `logs` report, `settings` has every limit, `main` runs
the server.
"""
