"""Lets torchvision be imported beside a torch without CUDA; `vision.py` copies it into site-packages, where a .pth
file imports it whenever Python starts. So it imports nothing but `sys` by itself.
"""

import sys


class DeclareOperators:
    """Declares, just before torchvision runs, the operators that its compiled part would: it cannot be loaded."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "torchvision":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:  # also asked for by those who only want to know whether it is there
            spec.loader.exec_module = lambda module, run=spec.loader.exec_module: declare(module) or run(module)
        return spec


def declare(module):
    import torch

    operators = module.npo_operators = torch.library.Library("torchvision", "DEF")  # gone when nothing holds it
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, DeclareOperators)
