"""Count parameters and multiply-accumulates (MACs) of the networks, and measure their milliseconds if asked.

Counting computes nothing and takes a second; --time runs each network on this machine.

  python scripts/OpCounter.py
  python scripts/OpCounter.py --network raunet enet --size 512 --num_classes 3 --time
  python scripts/OpCounter.py --checkpoint runs/kits19_enet/best.ckpt
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from networks import NETWORKS
from utils.checkpoints import load, rebuild
from utils.complexity import complexity, latency


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=sorted(NETWORKS), metavar="NAME", help="default: all of them")
    parser.add_argument("--checkpoint", nargs="+", default=[], metavar="FILE", help="networks as trained, instead")
    parser.add_argument("--size", type=int, default=384, help="height and width of the image, a multiple of 32 (384)")
    parser.add_argument(
        "--in_channels", type=int, default=1, help="channels of the image (1); a checkpoint knows its own"
    )
    parser.add_argument(
        "--num_classes", type=int, default=2, help="classes with background (2); a checkpoint knows its own"
    )
    parser.add_argument("--time", action="store_true", help="also measure milliseconds per image, batch 1, fp32")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where --time measures"
    )
    arguments = parser.parse_args()
    if arguments.size < 32 or arguments.size % 32:
        parser.error(f"--size must be a positive multiple of 32, not {arguments.size}")
    try:
        rows = measure(arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    width = max(len(row[0]) for row in rows)
    print(
        f"1 image {arguments.in_channels}x{arguments.size}x{arguments.size}" if not arguments.checkpoint else "1 image"
    )
    for row in [("network", "M parameters", "GMACs", "ms"), *rows]:
        print(f"{row[0]:<{width}}  {row[1]:>12}  {row[2]:>8}  {row[3] if arguments.time else '':>8}".rstrip())
    if arguments.time:
        threads = f", {torch.get_num_threads()} threads" if arguments.device == "cpu" else ""
        print(f"ms: median of 20, batch 1, fp32, {arguments.device}{threads}")
    return 0


def measure(arguments: argparse.Namespace) -> list[tuple[str, str, str, str]]:
    """One row of text per network: name, million parameters, GMACs, milliseconds."""
    names = arguments.checkpoint or arguments.network or list(NETWORKS)
    rows = []
    for name in tqdm(names, desc="networks", leave=False, disable=None):
        network, in_channels = build_network(name, arguments)
        size = complexity(network, in_channels, arguments.size)
        milliseconds = ""
        if arguments.time:
            image_shape = (1, in_channels, arguments.size, arguments.size)
            milliseconds = f"{latency(network.to(arguments.device), image_shape):.1f}"
        rows.append((name, f"{size.parameters / 1e6:.3f}", f"{size.macs / 1e9:.2f}", milliseconds))
    return rows


def build_network(name: str, arguments: argparse.Namespace) -> tuple[nn.Module, int]:
    """The network of a checkpoint or of a registry name, and its input channels; without weights unless timed."""
    if arguments.checkpoint:
        checkpoint = load(name)
        return rebuild(checkpoint), checkpoint["network"].get("in_channels", 1)
    with torch.device("cpu" if arguments.time else "meta"):
        return NETWORKS[name](arguments.in_channels, arguments.num_classes), arguments.in_channels


if __name__ == "__main__":
    sys.exit(main())
