"""Which factor is an op? One table from the name of the autograd node, without its ``Backward0``, to its factor.

An op that is linear in its input files under `weight`, an elementwise non-linearity under `activation`, one that only
moves, drops, repeats or adds up elements under `reshape`. What the table does not know counts as `other`.
"""

from __future__ import annotations

import re

from gradtrace.records.vocabulary import Factor

LEAF = "torch::autograd::AccumulateGrad"

OPAQUE = {
    "CheckpointFunction": "reentrant checkpoint",
    "MkldnnRnnLayer": "fused recurrence",
    "CudnnRnn": "fused recurrence",
    "MiopenRnn": "fused recurrence",
    "CompiledFunction": "compiled function",
}
"""Ops with others hidden inside, and what they are."""

_NAMES: dict[Factor, str] = {
    Factor.WEIGHT: """
        Addmm Mm Bmm Baddbmm Addbmm Addmv Mv Dot Vdot Addr Linear LinalgVecdot Trilinear Mul Div Addcmul Addcdiv Lerp
        Prod Cumprod LinalgMatrixExp LinalgSolveEx LinalgInvEx Cross LinalgCross FftC2C FftR2C FftC2R
        Convolution ConvolutionOverrideable MkldnnConvolution CudnnConvolution CudnnConvolutionTranspose SlowConv2D
        SlowConv3D SlowConvTranspose2D SlowConvTranspose3D ThnnConv2D ConvDepthwise2D ConvDepthwise3D ConvTbc
        Embedding EmbeddingBag EmbeddingDenseBackward SparseAddmm SparseMm SparseMmReduceImpl SegmentReduce
        MkldnnRnnLayer CudnnRnn MiopenRnn ThnnFusedLstmCell ThnnFusedGruCell ThnnDifferentiableLstmCell
        MkldnnLinear QuantizedLinear GroupedMm GridSampler2D GridSampler3D""",
    Factor.ACTIVATION: """
        Sigmoid Tanh Relu Relu6 LeakyRelu PreluKernel Prelu RreluWithNoise Rrelu Elu Selu Celu Gelu Silu Mish
        Hardsigmoid Hardswish Hardtanh LogSigmoid Softplus Softsign Softshrink Hardshrink Tanhshrink Threshold Glu
        Softmax LogSoftmax Logsumexp Logcumsumexp SafeSoftmax
        Pow Exp Exp2 Expm1 Log Log2 Log10 Log1P Sqrt Rsqrt Reciprocal Sin Cos Tan Asin Acos Atan Atan2 Sinh Cosh
        Asinh Acosh Atanh Erf Erfc Erfinv Abs Clamp ClampMin ClampMax Sign Round Floor Ceil Trunc Frac Sinc Xlogy
        Lgamma Digamma Logit Square Hypot Logaddexp Logaddexp2 SpecialEntr SpecialXlog1Py I0 SpecialI0E Angle Sgn
        Fmod Remainder Deg2Rad Rad2Deg""",
    Factor.NORM: """
        NativeBatchNorm CudnnBatchNorm MiopenBatchNorm NativeBatchNormLegit BatchNormWithUpdate NativeLayerNorm
        NativeGroupNorm FusedRmsNorm LayerNorm GroupNorm RmsNorm Renorm WeightNormInterface LinalgVectorNorm Norm
        BatchNormImpl Std Var StdMean VarMean""",
    Factor.ATTENTION: """
        ScaledDotProductFlashAttention ScaledDotProductFlashAttentionForCpu ScaledDotProductEfficientAttention
        ScaledDotProductCudnnAttention ScaledDotProductFusedAttentionOverrideable ScaledDotProductAttentionMath
        EfficientAttention FlashAttention MaskedSoftmax FlexAttention NativeMultiHeadAttention""",
    Factor.RESHAPE: """
        View UnsafeView ReshapeAlias Reshape T Mt Mh Transpose Permute Expand Squeeze Unsqueeze Select Slice Narrow
        Index IndexSelect IndexAdd IndexCopy IndexFill IndexPut IndexPutImpl Take TakeAlongDim Gather Scatter ScatterAdd
        ScatterReduce Cat Stack Split SplitWithSizes UnsafeSplit Chunk Unbind Clone Alias ToCopy ToDense ToSparse
        AsStrided Flip Roll Rot90 Repeat RepeatInterleave Tile Diagonal DiagonalScatter SliceScatter SelectScatter Diag
        DiagEmbed Tril Triu Trace Movedim Sum Mean Nansum Cumsum Add Sub Rsub Neg Positive Max Min Amax Amin Maximum
        Minimum Fmax Fmin Cummax Cummin Median Nanmedian Kthvalue Mode Topk Sort Where SWhere MaskedFill MaskedScatter
        MaskedSelect CopySlices CopyBackwards Copy Fill Zero Detach Unfold UnfoldCopy Im2Col Col2Im PixelShuffle
        PixelUnshuffle ChannelShuffle ConstantPadNd ReflectionPad1D ReflectionPad2D ReflectionPad3D ReplicationPad1D
        ReplicationPad2D ReplicationPad3D MaxPool2DWithIndices MaxPool3DWithIndices MaxPool2D MkldnnMaxPool2D
        MkldnnMaxPool3D MaxUnpool2D MaxUnpool3D AvgPool2D AvgPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D
        AdaptiveMaxPool2D AdaptiveMaxPool3D FractionalMaxPool2D FractionalMaxPool3D UpsampleNearest1D UpsampleNearest2D
        UpsampleNearest3D UpsampleNearestExact1D UpsampleNearestExact2D UpsampleNearestExact3D UpsampleLinear1D
        UpsampleBilinear2D UpsampleBicubic2D UpsampleTrilinear3D UpsampleBilinear2DAa UpsampleBicubic2DAa
        NativeDropout FusedDropout ViewAsReal ViewAsComplex Real Imag Complex Conj ConjPhysical ResolveConj
        NestedTensorFromMask PackPaddedSequence PadPackedSequence Resize Contiguous NanToNum Values""",
    Factor.LOSS: """
        NllLoss NllLossNd NllLoss2D MseLoss L1Loss SmoothL1Loss HuberLoss BinaryCrossEntropy
        BinaryCrossEntropyWithLogits KlDiv SoftMarginLoss MultiMarginLoss MultilabelMarginLoss CtcLoss CudnnCtcLoss
        CrossEntropyLoss CosineEmbeddingLoss HingeEmbeddingLoss MarginRankingLoss TripletMarginLoss
        LinearCrossEntropy""",
}

KINDS: dict[str, Factor] = {name: factor for factor, names in _NAMES.items() for name in names.split()}


def base_name(node_name: str) -> str:
    """Strip what autograd adds: number, ``Backward``, leading underscores; a custom function's name stays whole.

    >>> base_name("AddmmBackward0"), base_name("MaxPool2DWithIndicesBackward0"), base_name("CopySlices")
    ('Addmm', 'MaxPool2DWithIndices', 'CopySlices')
    """
    name = re.sub(r"\d+$", "", node_name) if "Backward" in node_name else node_name
    return name.removesuffix("Backward").lstrip("_")


def factor_of(node_name: str) -> Factor:
    """The factor that an op of this node name is, before its surroundings are looked at.

    >>> factor_of("SigmoidBackward0").value, factor_of("MyFunctionBackward").value
    ('activation', 'other')
    """
    return KINDS.get(base_name(node_name), Factor.OTHER)
