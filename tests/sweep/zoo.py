"""The models of a sweep: all of torchvision's, and a small one of each family of timm's, with random weights."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

#: Words of a name that say how large the model is, the smallest first.
# fmt: off
SIZES = (
    "zepto", "atto", "femto", "pico", "nano", "xxtiny", "xtiny", "xxs", "xs", "xx", "ti", "tiny", "t", "ts", "lite",
    "mini", "xsmall", "little", "es", "so", "small", "s", "em", "medium", "m", "el", "base", "b", "large", "l",
    "xlarge", "xl", "xxlarge", "huge", "giant",
)
# fmt: on


class Entry(NamedTuple):
    """A model: the package that has it, its family and its name."""

    source: str
    family: str
    name: str


def stem(name: str) -> str:
    """The name of a family: that of a model up to the first digit, without words that say how large it is."""
    first, *words = re.sub(r"\d.*", "", name).strip("_").split("_")
    return "_".join([first, *(word for word in words if len(word) > 1 and word not in SIZES)]) or name


def by_size(name: str) -> tuple[int, list[int], str]:
    """The key that sorts the models of a family by the sizes and numbers in their names, the smallest first."""
    ranks = [SIZES.index(word) for word in re.split(r"[_\d]+", name) if word in SIZES]
    return min(ranks, default=SIZES.index("small")), [int(number) for number in re.findall(r"\d+", name)], name


def entries() -> list[Entry]:
    """All models of torchvision that classify, segment or detect, and of each family of timm's the smallest by name."""
    import timm
    from torchvision import models

    found = [
        Entry("torchvision", _kind(name), name)
        for module in (models, models.segmentation, models.detection)
        for name in models.list_models(module=module)
    ]
    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        module = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
        families.setdefault(f"{module}/{stem(name)}", []).append(name)
    return found + [Entry("timm", family, min(names, key=by_size)) for family, names in families.items()]


def _kind(name: str) -> str:
    from torchvision import models

    return str(models.get_model_builder(name).__module__.removeprefix("torchvision.models.").replace(".", "/"))


def _made(source: str, name: str) -> Any:
    if source == "timm":
        import timm

        return timm.create_model(name, pretrained=False)
    from torchvision import models

    kind, arguments = _kind(name), {"weights": None}
    if kind.startswith(("segmentation", "detection")):
        arguments |= {"weights_backbone": None}
    if name in ("googlenet", "inception_v3"):
        arguments |= {"init_weights": False}
    model = models.get_model(name, **arguments)
    # The boxes that a detector finds are as many as data say. All layers before them are its body.
    return model.backbone if kind.startswith("detection") else model


def built(source: str, name: str) -> tuple[Any, Any]:
    """A model in evaluation mode with the same random weights every time, and two samples of its input."""
    import torch

    torch.manual_seed(0)
    model = _made(source, name).eval()
    _randomise(model)
    size = (3, 224, 224)
    if source == "timm":
        import timm

        size = timm.data.resolve_model_data_config(model)["input_size"]
    elif name == "inception_v3":
        size = (3, 299, 299)
    elif _kind(name).startswith("detection"):
        size = (3, 320, 320)
    return model, torch.randn(2, *size, generator=torch.Generator().manual_seed(1))


def _randomise(model: Any) -> None:
    """Give values to all parameters and statistics that an untrained model has equal: they would hide mistakes."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and parameter.min() == parameter.max():
                if 0.5 < float(parameter.flatten()[0]) < 2:
                    parameter.uniform_(0.75, 1.25)
                else:
                    parameter.normal_(0, 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.75, 1.25)
