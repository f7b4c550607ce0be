"""Features: the outputs of named places (taps) in a network, read in one forward."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from utils.recipe.registry import nearest


def submodule_paths(network: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Maps tap names to submodule paths: by the network's own `taps`, or the name itself for a foreign network.

    Raises ValueError for a name that is neither, with the nearest one.
    """
    declared = getattr(network, "taps", {})
    modules = {path for path, _ in network.named_modules() if path}
    paths = {}
    for name in names:
        path = declared.get(name, name)
        if path not in modules:
            known = ["logits", *(declared or modules)]
            raise ValueError(
                f"{type(network).__name__} has no tap {name!r}{nearest(name, known)}; it has {', '.join(known[:20])}"
            )
        paths[name] = path
    return paths


def tap(network: nn.Module, image: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Runs `network` once on `image` (B, C, H, W) and returns the named features, with its output as "logits".

    Hooks live for this one call. To compile, compile the module that calls `tap`: hooks added to an already compiled
    network never fire, which is reported as a tap that was not reached.

    Raises ValueError for an unknown tap and for one that the forward did not reach.
    """
    features: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
            features[name] = output

        return hook

    paths = submodule_paths(network, [name for name in names if name != "logits"])
    handles = [network.get_submodule(path).register_forward_hook(keep(name)) for name, path in paths.items()]
    try:
        logits = network(image)
    finally:
        for handle in handles:
            handle.remove()
    missed = sorted(paths.keys() - features.keys())
    if missed:
        raise ValueError(f"{type(network).__name__}: the forward did not reach {', '.join(missed)}")
    return features | {"logits": logits}
