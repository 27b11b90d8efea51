"""Operators that a user's exported program may use: those that networks are made of, and no others.

Left out on purpose: operators that read or write files (`from_file`, `save`), take packed or raw memory (`fbgemm_*`,
`mkldnn_*`, `set_`, `resize_`, `_unsafe_*`), draw random numbers, or print. If a plain operator is missing, add its
name.
"""

from __future__ import annotations

TENSOR_OPERATORS = frozenset(
    """
    abs acos acosh adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm
    addmv alias all alpha_dropout amax amin aminmax any arange argmax argmin argsort as_strided asin asinh atan atan2
    atanh avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bitwise_and bitwise_not bitwise_or bitwise_xor bmm
    broadcast_tensors broadcast_to bucketize cat cdist ceil celu chunk clamp clamp_max clamp_min clone concat
    constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d _convolution
    convolution copy copysign cos cosh cosine_similarity cross cummax cumprod cumsum detach diag diag_embed diagonal
    diff div dot dropout einsum elu embedding empty empty_like eq erf erfc exp exp2 expand expand_as expm1 eye
    feature_dropout fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft
    fft_irfft2 fft_rfft fft_rfft2 fill flatten flip floor floor_divide fmod frobenius_norm full full_like gather ge
    gelu glu grid_sampler grid_sampler_2d group_norm gru gt hamming_window hann_window hardshrink hardsigmoid
    hardswish hardtanh hinge_embedding_loss im2col imag index index_add index_copy index_fill index_put index_select
    instance_norm inverse isfinite isinf isnan istft item kthvalue layer_norm le leaky_relu lerp lift_fresh_copy
    linalg_cross linalg_norm linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid _log_softmax
    log_softmax logaddexp logcumsumexp logical_and logical_not logical_or logical_xor logsumexp lstm lt masked_fill
    masked_scatter masked_select matmul max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum mean
    median meshgrid min minimum mish mm movedim mul multiply mv nan_to_num narrow native_batch_norm
    _native_batch_norm_legit_no_training native_group_norm native_layer_norm ne neg new_empty new_full new_ones
    new_zeros norm numpy_T ones ones_like outer pad permute pixel_shuffle pixel_unshuffle polar pow prelu prod real
    reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg rms_norm roll
    rot90 round rsqrt rsub scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce select
    select_scatter selu sgn sigmoid sign silu sin sinc sinh slice slice_scatter _softmax softmax softplus softshrink
    sort split split_with_sizes sqrt square squeeze stack std std_mean stft sub subtract sum swapaxes swapdims
    sym_numel sym_size sym_storage_offset sym_stride t take take_along_dim tan tanh tensor_split tensordot threshold
    tile to _to_copy topk transpose tril triu true_divide trunc type_as unbind unflatten unfold unsqueeze
    upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_trilinear3d var
    var_mean view view_as view_as_complex view_as_real vstack _weight_norm _weight_norm_interface where xlogy zeros
    zeros_like
    add_ celu_ clamp_ clamp_max_ clamp_min_ copy_ div_ dropout_ elu_ exp_ fill_ gelu_ hardsigmoid_ hardswish_
    hardtanh_ index_put_ leaky_relu_ masked_fill_ mish_ mul_ neg_ pow_ relu6_ relu_ rsqrt_ scatter_ selu_ sigmoid_
    silu_ sqrt_ squeeze_ sub_ tanh_ transpose_ unsqueeze_ zero_
    _assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size
    """.split()  # noqa: SIM905
)
"""Names in `torch.ops.aten`."""

NUMBER_OPERATORS = frozenset(
    """
    _operator.add _operator.sub _operator.mul _operator.floordiv _operator.truediv _operator.mod _operator.neg
    _operator.eq _operator.ne _operator.lt _operator.le _operator.gt _operator.ge _operator.and_ _operator.or_
    _operator.getitem torch.sym_float torch.sym_int torch.sym_max torch.sym_min torch.sym_not torch.sym_ite
    math.ceil math.floor math.trunc
    """.split()  # noqa: SIM905
)
"""Operators on sizes, not on tensors."""

WRAPPERS = frozenset(f"torch.ops.higher_order.{name}" for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast"))
"""Subgraphs with gradients or autocast switched on or off; transformers' decorators produce them."""

TRAINING = {
    **dict.fromkeys(("dropout", "dropout_", "alpha_dropout", "feature_dropout", "lstm", "gru"), "train"),
    **dict.fromkeys(("batch_norm", "native_batch_norm"), "training"),
}
"""Operators that behave differently in training, with the argument that switches it on."""
