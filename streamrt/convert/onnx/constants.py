"""The inputs of ONNX operators that must not depend on values of the model's inputs.

They are weights, or they decide shapes. Conversions check them; this is the list for the documentation and the tests.
"""

from __future__ import annotations

#: Names of these inputs, by operator. Names are those of the newest version of the operator.
CONSTANT_INPUTS: dict[str, tuple[str, ...]] = {
    "BatchNormalization": ("scale", "B", "input_mean", "input_var"),
    "CenterCropPad": ("shape",),
    "ConstantOfShape": ("input",),
    "Conv": ("W", "B"),
    "ConvTranspose": ("W", "B"),
    "CumProd": ("axis",),
    "CumSum": ("axis",),
    "Dropout": ("training_mode",),
    "Expand": ("shape",),
    "GatherElements": ("indices",),
    "GatherND": ("indices",),
    "GroupNormalization": ("scale", "bias"),
    "InstanceNormalization": ("scale", "B"),
    "LayerNormalization": ("Scale", "B"),
    "OneHot": ("depth", "values"),
    "PRelu": ("slope",),
    "Pad": ("pads", "constant_value", "axes"),
    "Range": ("start", "limit", "delta"),
    "ReduceL1": ("axes",),
    "ReduceL2": ("axes",),
    "ReduceLogSum": ("axes",),
    "ReduceLogSumExp": ("axes",),
    "ReduceMax": ("axes",),
    "ReduceMean": ("axes",),
    "ReduceMin": ("axes",),
    "ReduceProd": ("axes",),
    "ReduceSum": ("axes",),
    "ReduceSumSquare": ("axes",),
    "Reshape": ("shape",),
    "Resize": ("roi", "scales", "sizes"),
    "ReverseSequence": ("sequence_lens",),
    "Scatter": ("indices",),
    "ScatterElements": ("indices",),
    "ScatterND": ("indices",),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Split": ("split",),
    "Squeeze": ("axes",),
    "Tile": ("repeats",),
    "TopK": ("K",),
    "Trilu": ("k",),
    "Unsqueeze": ("axes",),
    "Upsample": ("scales",),
}
