"""Classes of GPU kernels, told by their names."""

import re

CONVOLUTION, OWN_CONVOLUTION = "convolution (library)", "convolution (ours)"
NEURON, STATISTICS, OPTIMIZER = "neuron", "batch statistics", "optimizer"
HEAD, COPIES, ELEMENTWISE, OTHER = "loss, head", "copies, casts, layout", "elementwise", "other"
CLASSES = (CONVOLUTION, OWN_CONVOLUTION, NEURON, STATISTICS, OPTIMIZER, HEAD, COPIES, ELEMENTWISE, OTHER)

# The first pattern found decides. Neurons and batch norms that are not fused are "elementwise" or "batch statistics",
# since their kernels do not tell what they add or multiply.
_PATTERNS: tuple[tuple[str, str], ...] = (
    (OPTIMIZER, r"multi_tensor_apply|fused_?(sgd|adam)"),
    (OWN_CONVOLUTION, r"^_(conv|conv_neuron|weight_gradient|scatter|pack_weight)_kernel"),
    (STATISTICS, r"^_(partial_statistics|merge_statistics|finish_sums)_kernel|batch_?norm|\bbn_(fw|bw)"),
    (NEURON, r"^_(forward|backward)_kernel|multistep_p?(lif|if)_|sj_p?(lif|if)|max_?pool"),
    (COPIES, r"^_unpack_kernel|memcpy|memset|copy_kernel|copy_device|fillfunctor|catarray"),
    (COPIES, r"(nchw|nhwc)to|tensortransform"),
    (ELEMENTWISE, r"^triton_(poi|red|per)_"),  # torch.compile names them after a convolution that they stand behind
    (CONVOLUTION, r"cudnn|fprop|dgrad|wgrad|conv(?!ert)|winograd|fft2d"),
    (HEAD, r"gemm|gemv|nvjet|splitk|softmax|nll_loss|cross_entropy|meanops|cutlass|cublas"),
    (ELEMENTWISE, r"elementwise|reduce_kernel"),
)
_COMPILED = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _PATTERNS]


def kernel_class(name: str) -> str:
    """One of :data:`CLASSES` for a kernel as the profiler names it."""
    return next((found for found, pattern in _COMPILED if pattern.search(name)), OTHER)


def is_kernel(name: str) -> bool:
    """Whether it is a kernel at all, and no copy or memset, which the profiler lists beside them."""
    return not re.match(r"mem(cpy|set)\b", name, re.IGNORECASE)
