"""The stages of a backbone in the order in which an image passes them: what is frozen, or trained slower, by depth."""

from __future__ import annotations

from torch import nn


def stages(backbone: nn.Module) -> list[list[str]]:
    """Names of the parts of `backbone` by stage, from the image on; parameters of its own are the first one's.

    A stage is a part with a parameter of two dimensions or more (a convolution, a block); a norm belongs to the part
    before it. A backbone that is one part only has that part's stages: ResNet has 5 (first convolution, layer1 to
    layer4), VGG-16 its 13 convolutions, MobileNetV2 its 19 blocks.
    """
    prefix, module = "", backbone
    while len(parts := [item for item in module.named_children() if any(True for _ in item[1].parameters())]) == 1:
        prefix, module = f"{prefix}{parts[0][0]}.", parts[0][1]
    found: list[list[str]] = []
    for name, part in parts:
        if not found or any(parameter.ndim > 1 for parameter in part.parameters()):
            found.append([])
        found[-1].append(prefix + name)
    return found


def stage_of(parameter: str, of: list[list[str]]) -> int:
    """Place among stages `of` of the parameter called so in the backbone: 0 for the stage nearest to the image."""
    for number, names in enumerate(of):
        if any(parameter.startswith(f"{name}.") for name in names):
            return number
    return 0
