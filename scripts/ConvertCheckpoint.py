"""Turn weights that the published code of EMKD, HLFD or HDKD saved into a checkpoint of this program.

  python scripts/ConvertCheckpoint.py --checkpoint emkd.ckpt --output runs/emkd/best.ckpt
  python scripts/ConvertCheckpoint.py --checkpoint hlfd.ckpt --output runs/liver/best.ckpt --dataset lits \\
      --task organ --window -40 160
  python scripts/ConvertCheckpoint.py --checkpoint best_model.pth --output runs/hdkd/best.ckpt \\
      --class_names glioma meningioma notumor pituitary

It takes Lightning's files (`state_dict` with `net.` before the names) and state dicts alone, recognizes the network
by its names and loads it strictly. The network answers as the published code does (`as_published` where ours differs;
RAUNet's published log-softmax is left to the loss). Nothing in the file is executed.
The checkpoint can predict, be exported, and teach train_kd.py. What a published file does not say is taken as
published and printed; who it was trained on is not known, unless --split_file names them.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command import run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", required=True, type=Path, help="file that the published code saved")
    add("--output", required=True, type=Path, help="checkpoint to write, or a folder for best.ckpt; it must not exist")
    add("--network", metavar="NAME", help="which published network it is (default: recognized)")
    add("--prefix", metavar="P", help="of the names to take, where the file holds two networks (default: net.)")
    add(
        "--class_names",
        nargs="+",
        metavar="NAME",
        help="of slices without the background (default: tumor, or the organ)",
    )
    add("--dataset", choices=("kits", "lits"), help="of slices (default: what the file says, or kits)")
    add("--task", choices=("tumor", "organ", "all"), help="of slices (default: what the file says, or tumor)")
    add("--modality", choices=("CT", "MR"), default="CT", help="of slices (default: CT)")
    add(
        "--window",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="in HU (default: EMKD's, kits -200 300, lits -60 140)",
    )
    add("--crop", type=int, default=384, help="side of the slices it was trained on (default: 384)")
    add("--image_size", type=int, help="side of the images it was trained on (default: 224, or as its weights show)")
    add(
        "--normalization",
        choices=("imagenet", "half", "none"),
        default="imagenet",
        help="of images (default: imagenet)",
    )
    add("--split_file", type=Path, help="split of its training: JSON with lists train, val, test of patients")
    add("--data", metavar="ROOT", help="the data, for the commands that score on them (default: data/kits19, ...)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return run_command("ConvertCheckpoint", lambda: convert_checkpoint(args))


def convert_checkpoint(args: argparse.Namespace) -> int:
    """Convert as the flags say, write the checkpoint whole, and print what it is."""
    from utils.runs.conversion import Answers, convert_file  # they load torch, which --help does not need
    from utils.training import checkpoints

    output = args.output / "best.ckpt" if args.output.is_dir() or not args.output.suffix else args.output
    if output.exists() or output.is_symlink():
        raise ValueError(f"{output}: is there already: choose another --output")
    if any((output.parent / name).exists() for name in ("last.ckpt", "config.yaml")):
        raise ValueError(f"{output.parent}: holds a run: choose another --output")
    if args.checkpoint.is_dir():
        raise ValueError(f"{args.checkpoint}: is a folder: give the file of weights in it")
    if not args.checkpoint.is_file():
        raise ValueError(f"{args.checkpoint}: no such file: check the path")
    given = vars(args)
    answers = Answers(
        window=tuple(args.window) if args.window else None,
        root=args.data,
        **{name: given[name] for name in Answers.__dataclass_fields__ if name in given and name != "window"},
    )
    checkpoint, lines = convert_file(args.checkpoint, answers)
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(checkpoint, output)
    print("\n".join([*lines, f"written: {output}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
