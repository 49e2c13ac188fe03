"""ONNX operators that are refused on purpose, and why. Any other operator is one that has no conversion yet."""

from __future__ import annotations

#: Operators by the reason for which they are refused.
_REASONS: dict[str, tuple[str, ...]] = {
    "the shape of its result depends on values of its inputs, and shapes must be known before a pass": (
        *("Compress", "NonMaxSuppression", "NonZero", "Unique"),
    ),
    "it computes a graph as often as values of its inputs say, and a pass has a fixed list of steps": (
        *("Loop", "Scan", "SequenceMap"),
    ),
    "it handles sequences of tensors, and a graph has only tensors": (
        *("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase"),
        *("SequenceInsert", "SequenceLength", "SplitToSequence"),
    ),
    "it handles values that may be missing, and a graph has only tensors": (
        *("Optional", "OptionalGetElement", "OptionalHasElement"),
    ),
    "it handles text or files, and tensors are numbers": (
        *("ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
    ),
    "its result is random, and a model gives the same answer to the same input": (
        *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    ),
    "it is for training": ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"),
}

#: Why an operator is refused, by its name.
REFUSED: dict[str, str] = {op: reason for reason, names in _REASONS.items() for op in names}
