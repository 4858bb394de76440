"""The operations that a model's graph may have: those that compute, and touch nothing else.

Arithmetic, shapes, decoding of bytes in memory, lists and loops, variables and tables in memory. No
file, no network, no Python; a test asks TensorFlow's registry for their state. What is not named
here is refused, also what a later TensorFlow brings.
"""

from __future__ import annotations

_ARITHMETIC = """
Abs Acos Acosh Add AddN AddV2 Asin Asinh Atan Atan2 Atanh BatchMatMul BatchMatMulV2
BatchMatMulV3 BiasAdd Bucketize Ceil ClipByValue Cos Cosh Cross Cumprod Cumsum DivNoNan Einsum
Elu Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Inv IsFinite IsInf IsNan L2Loss LeakyRelu
Lgamma Log Log1p LogSoftmax MatMul Maximum Minimum Mod Mul MulNoNan Neg Pow RealDiv Reciprocal
Relu Relu6 Rint Round Rsqrt Selu Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Square
SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlogy
"""
_COMPARISON = """
All Any ArgMax ArgMin Equal Greater GreaterEqual InTopKV2 Less LessEqual LogicalAnd LogicalNot
LogicalOr Max Mean Min NotEqual Prod Select SelectV2 Sum TopK TopKV2 Where
"""
_CONVOLUTION = """
AvgPool AvgPool3D Conv2D Conv2DBackpropInput Conv3D DepthwiseConv2dNative Dilation2D
FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 LRN MaxPool MaxPool3D MaxPoolV2
"""
_SHAPES = """
BatchToSpaceND BroadcastArgs BroadcastTo Concat ConcatV2 DepthToSpace EnsureShape ExpandDims
Fill Gather GatherNd GatherV2 Identity IdentityN LinSpace MatrixBandPart MatrixDiag MirrorPad
OneHot OnesLike Pack Pad PadV2 Range Rank Reshape Reverse ReverseV2 Roll ScatterNd Shape ShapeN
Size Slice SpaceToBatchND SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice
TensorScatterUpdate Tile Transpose Unpack ZerosLike
"""
_IMAGES = """
AdjustContrastv2 AdjustHue AdjustSaturation CropAndResize DecodeAndCropJpeg DecodeBase64
DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodePng DecodeRaw DecodeWebP EncodeBase64
ExtractImagePatches ExtractJpegShape HSVToRGB ImageProjectiveTransformV3 RGBToHSV ResizeArea
ResizeBicubic ResizeBilinear ResizeNearestNeighbor ScaleAndTranslate
"""
_VALUES = """
AsString Bitcast Cast CheckNumerics Const Dequantize FakeQuantWithMinMaxArgs
FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Placeholder PlaceholderWithDefault
PreventGradient QuantizeAndDequantizeV2 QuantizeV2 StaticRegexFullMatch StringJoin StringLength
Substr
"""
_CONTROL = """
Assert AssignVariableOp Case DisableCopyOnRead Enter Exit If LoopCond Merge NextIteration NoOp
PartitionedCall ReadVariableOp ResourceGather StatefulPartitionedCall StatelessCase StatelessIf
StatelessRandomGetKeyCounter StatelessRandomUniformV2 StatelessWhile Switch TensorListFromTensor
TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListReserve
TensorListSetItem TensorListStack VarHandleOp VarIsInitializedOp While
"""
_TABLES = """
HashTableV2 LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2 ParseExampleV2
"""

ALLOWED = frozenset(
    " ".join(
        (
            _ARITHMETIC,
            _COMPARISON,
            _CONVOLUTION,
            _SHAPES,
            _IMAGES,
            _VALUES,
            _CONTROL,
            _TABLES,
        )
    ).split()
)
