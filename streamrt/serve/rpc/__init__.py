"""The gRPC form of the Open Inference Protocol, beside HTTP (extra ``grpc``): one service, two faces.

From a call to its answer::

    server      the server, in the event loop of HTTP's: its limits, its start and its end
    calls       the methods of the protocol
    call        a call: its message, its answer, its error, its line in the log
    intake      room for messages before they arrive
    peers       closes the connection of a client that takes no answer
    codec       bytes of messages to tensors and back; pure
    wire        the fields of a message that is not parsed; pure
    messages    the classes of messages, from ``open_inference.proto``

grpcio has the connections, in threads of C++. This package gets a message whole, as bytes. So it decides when a message
may arrive, and counts it before: see `intake`.
"""

import os

# grpcio would write lines of its own to stderr, which has one JSON object a line.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
