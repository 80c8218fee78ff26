"""Which factor is an op? One table from the name of the autograd node, without its ``Backward0``, to its factor.

An op that is linear in its input files under `weight`, an elementwise non-linearity under `activation`, one that only
moves, drops, repeats or adds up elements under `reshape`. What the table does not know counts as `other`.
"""

from __future__ import annotations

import re
from functools import cache

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

SQUASHING = frozenset({"Sigmoid", "Tanh", "LogSigmoid", "Softplus", "BinaryCrossEntropyWithLogits"})
"""Ops with a smooth flat side, whose slope tells how far out on it an entry lies."""

_NAMES: dict[Factor, str] = {
    Factor.WEIGHT: """
        Addmm Mm Bmm Baddbmm Addbmm Addmv Mv Dot Vdot Addr Linear Trilinear Matmul GroupedMm MkldnnLinear Mul Div
        Addcmul Addcdiv Lerp Ldexp Prod Cumprod LinalgCross FftC2C FftR2C FftC2R Convolution ConvolutionOverrideable
        ConvolutionBackwardOverrideable ConvDepthwise2D ConvDepthwise3D ConvTbc MkldnnConvolution CudnnConvolution
        CudnnConvolutionTranspose MiopenConvolution MiopenConvolutionTranspose MiopenDepthwiseConvolution
        MpsConvolution MpsConvolutionTranspose NnpackSpatialConvolution SlowConv2D SlowConv3D SlowConvDilated2D
        SlowConvDilated3D SlowConvTranspose2D SlowConvTranspose3D Embedding EmbeddingBag EmbeddingDenseBackward
        EmbeddingBagDenseBackward SparseAddmm SparseMmReduceImpl SparseSampledAddmm SparseSparseMatmul SegmentReduce
        MkldnnRnnLayer CudnnRnn MiopenRnn LstmMps ThnnFusedLstmCell ThnnFusedGruCell GridSampler2D
        GridSampler2DCpuFallback GridSampler3D CudnnGridSampler AffineGridGenerator CudnnAffineGridGenerator
        LinalgMatrixExp LinalgSolveEx LinalgSolveTriangular LinalgInvEx LinalgPinv LinalgLstsq LinalgDet
        LinalgSlogdet LinalgEig LinalgEigh LinalgSvd LinalgQr LinalgLu LinalgLuSolve LinalgLuFactor LinalgLuFactorEx
        LinalgMatrixSqrth LinalgPolar LinalgCholeskyEx LinalgHouseholderProduct Cholesky CholeskyInverse CholeskySolve
        Geqrf LuUnpack Ormqr TriangularSolve""",
    Factor.ACTIVATION: """
        Sigmoid Tanh Relu LeakyRelu PreluKernel RreluWithNoise RreluWithNoiseFunctional Elu Celu Gelu Silu Mish
        Hardsigmoid Hardswish Hardtanh LogSigmoid Softplus Softshrink Hardshrink Threshold Glu Softmax LogSoftmax
        SafeSoftmax SparseSoftmax SparseLogSoftmax Logsumexp Logcumsumexp Pow Exp Exp2 Expm1 Log Log2 Log10 Log1P
        Sqrt Rsqrt Reciprocal Sin Cos Tan Asin Acos Atan Atan2 Sinh Cosh Asinh Acosh Atanh Erf Erfc Erfinv Abs Clamp
        ClampMin ClampMax Sign Sgn Round Floor Ceil Trunc Frac Frexp Sinc Xlogy Logit Hypot Logaddexp Logaddexp2 Fmod
        Remainder Deg2Rad Rad2Deg Angle Polar Copysign Nextafter Lgamma Mvlgamma Digamma Polygamma Igamma Igammac
        StandardGamma StandardGammaGrad I0 SpecialEntr SpecialErfcx SpecialI0E SpecialI1 SpecialI1E SpecialLogNdtr
        SpecialNdtri SpecialXlog1Py SpecialZeta SpecialBesselJ0 SpecialBesselJ1 SpecialBesselY0 SpecialBesselY1
        SpecialModifiedBesselI0 SpecialModifiedBesselI1 SpecialModifiedBesselK0 SpecialModifiedBesselK1
        FakeQuantizeLearnablePerChannelAffine
        FakeQuantizeLearnablePerTensorAffine FusedMovingAvgObsFqHelper FakeQuantizePerChannelAffineCachemask
        FakeQuantizePerTensorAffineCachemask FakeQuantizePerTensorAffineCachemaskTensorQparams""",
    Factor.NORM: """
        NativeBatchNorm NativeBatchNormLegit NativeBatchNormLegitNoTraining CudnnBatchNorm MiopenBatchNorm
        BatchNormWithUpdate BatchNormNoUpdate BatchNormBackward NativeLayerNorm NativeGroupNorm FusedRmsNorm Renorm
        EmbeddingRenorm WeightNormInterface LinalgVectorNorm Norm Std Var StdMean VarMean Cdist Pdist Dist
        EuclideanDist""",
    Factor.ATTENTION: """
        ScaledDotProductFlashAttention ScaledDotProductFlashAttentionForCpu ScaledDotProductEfficientAttention
        ScaledDotProductCudnnAttention ScaledDotProductFusedAttentionOverrideable EfficientAttention FlashAttention
        CudnnAttention MaskedSoftmax FlexAttentionAutogradOp""",
    Factor.RESHAPE: """
        View UnsafeView ReshapeAlias ReshapeCopy T Transpose Permute Expand Squeeze Unsqueeze Select Slice
        SliceInverse NarrowCopy Index IndexSelect IndexAdd IndexCopy IndexFill IndexPut IndexPutImpl IndexReduce
        UnsafeIndex UnsafeIndexPut UnsafeMaskedIndex UnsafeMaskedIndexPutAccumulate Take Put Gather Scatter
        ScatterAdd ScatterReduce Cat Stack BlockDiag Split SplitWithSizes UnsafeSplit UnsafeSplitWithSizes Chunk
        Unbind Clone LazyClone Alias ToCopy PinMemory Lift LiftFresh AsStrided AsStridedScatter Flip Roll Rot90
        Repeat Diagonal DiagonalScatter SliceScatter SelectScatter DiagEmbed Tril Triu Trace Sum Mean Nansum Cumsum
        Add Sub Rsub Neg NegView Max Min Amax Amin Aminmax Maximum Minimum Fmax Fmin Cummax Cummin Median Nanmedian
        Kthvalue Mode Topk Sort Where MaskedFill MaskedScatter MaskedSelect CopySlices CopyBackwards Fill Zero Unfold
        Im2Col Col2Im PixelShuffle PixelUnshuffle ChannelShuffle ConstantPadNd ReflectionPad1D ReflectionPad2D
        ReflectionPad3D ReplicationPad1D ReplicationPad2D ReplicationPad3D MaxPool2DWithIndices MaxPool3DWithIndices
        MaxPool2D MkldnnMaxPool2D MkldnnMaxPool3D MaxUnpool2D MaxUnpool3D AvgPool2D AvgPool3D AdaptiveAvgPool2D
        AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D MkldnnAdaptiveAvgPool2D FractionalMaxPool2D
        FractionalMaxPool3D UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D UpsampleNearestExact1D
        UpsampleNearestExact2D UpsampleNearestExact3D UpsampleLinear1D UpsampleBilinear2D UpsampleBicubic2D
        UpsampleTrilinear3D UpsampleBilinear2DAa UpsampleBicubic2DAa UpsampleLanczos2DAa NativeDropout FusedDropout
        ViewAsReal ViewAsComplex Complex Conj ConjPhysical NanToNum PackPaddedSequence ToDense ToSparse ToSparseCsr
        ToSparseCsc ToSparseBsr ToSparseBsc ToMkldnn MkldnnReshape Coalesce Values SparseMask SparseSum
        SparseCooTensorWithDimsAndTensors SparseCompressedTensor NestedTensorFromMask NestedTensorFromTensorList
        NestedFromPadded NestedFromPaddedTensor NestedGetValues NestedViewFromBuffer NestedViewFromJagged
        ToPaddedTensor Eq Ne Lt Le Gt Ge Unique Unique2 UniqueDim UniqueConsecutive UniqueDimConsecutive Bernoulli
        Cauchy Exponential Geometric LogNormal Normal Poisson Random Uniform RegisterPostBackwardFunction""",
    Factor.LOSS: """
        NllLoss NllLoss2D MseLoss SmoothL1Loss HuberLoss BinaryCrossEntropy BinaryCrossEntropyWithLogits
        SoftMarginLoss MultiMarginLoss MultilabelMarginLoss CtcLoss CudnnCtcLoss MiopenCtcLoss""",
}

KINDS: dict[str, Factor] = {name: factor for factor, names in _NAMES.items() for name in names.split()}


_GENERATED = re.compile(r"(.+)Backward(?:Autograd[A-Za-z]+)?\d+(?:_copy)?")
"""What torch derives names its nodes: the op, ``Backward``, a number."""

_OPERATOR = re.compile(r"__[ri]?(add|sub|mul|matmul|truediv|div|pow)__")
"""What Python's operators are called where a tensor is on their right, or is changed in place."""


@cache
def base_name(node_name: str) -> str:
    """Strip what autograd adds: namespace, ``Backward``, number, leading underscores; and what Python does.

    A custom function that happens to be called like an op of torch keeps its ``Backward``: nothing is saved as there.

    >>> [base_name(name) for name in ("AddmmBackward0", "MaxPool2DWithIndicesBackward0", "torch::autograd::CopySlices")]
    ['Addmm', 'MaxPool2DWithIndices', 'CopySlices']
    >>> base_name("CheckpointFunctionBackward"), base_name("SigmoidBackward")
    ('CheckpointFunction', 'SigmoidBackward')
    >>> base_name("__rdiv__"), base_name("__matmul__"), base_name("exp_")
    ('div', 'matmul', 'exp_')
    """
    name = node_name.rpartition("::")[2]
    operator = _OPERATOR.fullmatch(name)
    if operator is not None:
        return operator[1]
    generated = _GENERATED.fullmatch(name)
    if generated is not None:
        return generated[1].lstrip("_")
    stem = name.removesuffix("Backward").lstrip("_")
    return name if stem in KINDS and stem != name else stem


@cache
def factor_of(node_name: str) -> Factor:
    """The factor that an op of this node name is, before its surroundings are looked at.

    The backward pass of an op (on the tape of a gradient penalty) is the factor of that op.

    >>> factor_of("SigmoidBackward0").value, factor_of("TanhBackwardBackward0").value, factor_of("MineBackward").value
    ('activation', 'activation', 'other')
    """
    name = base_name(node_name)
    known = (name, _SECOND.sub("", name), name.removeprefix("Foreach"))
    return next((KINDS[each] for each in known if each in KINDS), Factor.OTHER)


@cache
def is_derivative_of_activation(node_name: str) -> bool:
    """Whether torch's own node differentiates the derivative of an activation.

    >>> is_derivative_of_activation("ThresholdBackwardBackward0"), is_derivative_of_activation("TanhBackwardBackward0")
    (True, True)
    >>> is_derivative_of_activation("ReluBackward0"), is_derivative_of_activation("SignBackward")
    (False, False)
    """
    name = base_name(node_name)
    stem = _SECOND.sub("", name)
    return stem != name and node_name[-1:].isdigit() and KINDS.get(stem) is Factor.ACTIVATION


_SECOND = re.compile(r"Backward(Data)?$")
