"""Batch-norms folded into the convolutions before them: exact in eval mode, and one pass over the features less."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval


def fold_batch_norms(module: nn.Module) -> None:
    """Folds, in place, every batch-norm of a module in eval mode that directly follows a convolution.

    Follows in the order in which the modules were made, which in all our encoders is the order of their calls. What is
    folded can neither be trained nor saved under its old names. Computed in float64, so that nothing is lost twice.
    """
    before, convolution = "", None
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and convolution is not None:
            dtype = convolution.weight.dtype
            setattr(module, before, fuse_conv_bn_eval(convolution.double(), child.double()).to(dtype))
            setattr(module, name, nn.Identity())
        fold_batch_norms(child)
        before, convolution = name, child if isinstance(child, nn.Conv2d) else None
