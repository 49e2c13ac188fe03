"""The operators that a program in a ``.pt2`` file may use.

torch looks operators up by the names in the file, and some of its operators open files or change the process. So a name
is compared with this list before torch sees it. An operator that is missing here is refused by its name.
"""

from __future__ import annotations

import re

#: Operators of ``torch.ops.aten``, without their overloads. Each computes tensors from tensors, or extents from them.
#: Those whose name ends with an underscore write into their input; the list has them without it.
_TENSOR_OPERATORS = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _conj_physical _convolution _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _prelu_kernel _safe_softmax _scaled_dot_product_efficient_attention
    _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu _softmax _to_copy _unsafe_index
    _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d _weight_norm _weight_norm_interface abs absolute acos acosh adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm
    addcdiv addcmul addmm addmv addr affine_grid_generator alias all alpha_dropout amax amin aminmax any arange
    arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort asin asinh atan atan2 atanh atleast_1d
    atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear bitwise_and bitwise_left_shift
    bitwise_not bitwise_or bitwise_right_shift bitwise_xor block_diag bmm broadcast_tensors broadcast_to bucketize
    cat cdist ceil celu chain_matmul channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im column_stack
    concat concatenate constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d convolution copy copysign cos cosh cosine_similarity count_nonzero cross cummax cummin cumprod
    cumsum deg2rad detach diag diag_embed diagonal diagonal_copy diff div divide dot dropout dsplit dstack einsum elu
    embedding embedding_bag empty empty_like empty_strided eq erf erfc exp exp2 expand expand_as expm1 eye
    fake_quantize_per_channel_affine fake_quantize_per_tensor_affine feature_alpha_dropout feature_dropout fill fix
    flatten flip fliplr flipud float_power floor floor_divide fmax fmin fmod frac frobenius_norm full full_like
    gather ge gelu glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gt
    hardshrink hardsigmoid hardswish hardtanh hsplit hstack im2col index index_add index_copy index_fill index_put
    index_select inner instance_norm isclose isfinite isinf isnan isneginf isposinf item kron layer_norm le
    leaky_relu lerp less less_equal lift_fresh lift_fresh_copy linalg_cross linalg_matrix_norm linalg_norm
    linalg_vecdot linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid log_sigmoid_forward log_softmax
    logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor logit logsumexp lstm lt mT
    masked_fill matmul matrix_H max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices maximum mean meshgrid min minimum mish mm moveaxis movedim mul multiply mv nan_to_num
    nanmean nansum narrow narrow_copy native_batch_norm native_channel_shuffle native_dropout native_group_norm
    native_layer_norm ne neg negative new_empty new_empty_strided new_full new_ones new_zeros norm not_equal numpy_T
    one_hot ones ones_like outer pad pairwise_distance permute pixel_shuffle pixel_unshuffle positive pow prelu prod
    rad2deg ravel reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as rms_norm rnn_relu
    rnn_tanh roll rot90 round rrelu rsqrt rsub scalar_tensor scaled_dot_product_attention scatter scatter_add
    scatter_reduce select select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh slice slice_scatter softmax
    softplus softshrink sort special_erf special_erfc special_exp2 special_expit special_expm1 special_log1p
    special_log_softmax special_logsumexp special_round special_sinc special_softmax special_xlogy split
    split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum swapaxes swapdims sym_numel sym_size
    sym_storage_offset sym_stride t take take_along_dim tan tanh tensor_split tensordot threshold tile to topk trace
    transpose tril tril_indices triu triu_indices true_divide trunc type_as unbind unflatten unfold unsafe_chunk
    unsafe_split unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean vdot view view_as
    vsplit vstack where xlogy zero zeros zeros_like
"""
_ATEN = frozenset(_TENSOR_OPERATORS.split())
#: Functions of extents: numbers, or the symbols that stand for free extents.
_EXTENT_FUNCTIONS = """
    _operator.add _operator.and_ _operator.eq _operator.floordiv _operator.ge _operator.gt _operator.le _operator.lt
    _operator.mod _operator.mul _operator.ne _operator.neg _operator.or_ _operator.pos _operator.sub
    _operator.truediv math.ceil math.floor math.trunc torch.sym_float torch.sym_int torch.sym_ite torch.sym_max
    torch.sym_min torch.sym_not torch.sym_sqrt torch.sym_sum
"""
FUNCTIONS = frozenset(_EXTENT_FUNCTIONS.split())
#: Checks of shapes and types, which compute nothing. They are left out: the program is traced anew.
_CHECKS = frozenset(
    f"torch.ops.aten.{name}"
    for name in (
        "_assert_async.msg",
        "_assert_scalar.default",
        "_assert_tensor_metadata.default",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
    )
)
_OPERATOR = re.compile(r"torch\.ops\.aten\.([A-Za-z0-9_]{1,60})\.([A-Za-z][A-Za-z0-9_]{0,60})")


def is_check(target: str) -> bool:
    """Whether a node of this operator can be left out."""
    return target in _CHECKS


def is_allowed(target: str) -> bool:
    """Whether a node may have this operator."""
    found = _OPERATOR.fullmatch(target)
    name = found[1] if found else ""
    return target in FUNCTIONS or name in _ATEN or (name.endswith("_") and name[:-1] in _ATEN)
