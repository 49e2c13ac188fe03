"""From a model of another framework to a weights file.

``onnx``, ``torch`` and ``layers`` each read one kind of source into a `Draft`. ``fold`` makes the draft smaller.
``packing`` checks it and writes the file. This package can be imported without any of the frameworks.
"""

from streamrt.convert.codings import WEIGHTS
from streamrt.convert.layers import Layer
from streamrt.convert.packing import pack
from streamrt.convert.support import operators

__all__ = ["WEIGHTS", "Layer", "operators", "pack"]
