"""What the published code calls the tensors of its networks, and what they are called here: one table a network.

Of EMKD (EagleMIT/EMKD 943c9dc), HLFD (vangorade/RethinkingKD_ISBI24 5f2c570) and HDKD (omarsherif200/HDKD f7c7dae).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

Rules = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Layout:
    """The names of one published network.

    Args:
        source: Whose code it is.
        marker: The published name of a tensor that no other of these networks has, or only one listed before.
        rules: (pattern, replacement), applied one after the other to a published name.
        head: Our name of a tensor whose first size (`axis` 1: second) is the number of classes.
        unused: Pattern of the tensors that the published forward never reads.
        stem: Our name of the first convolution, where the published forward repeats a one-channel image three times and
            nothing else sees it: for one channel, the sum over the three computes the same.
        joined: Our name of a tensor, and the published ones that it is made of along its second dimension.
        as_published: Whether the network here has to be asked for the published behavior to compute the same.
    """

    source: str
    marker: str
    rules: Rules
    head: str = "head.weight"
    axis: int = 0
    unused: str = ""
    stem: str = ""
    joined: tuple[str, tuple[str, ...]] = ("", ())
    as_published: bool = False

    def renamed(self, name: str) -> str | None:
        """Our name of a published tensor, None where nothing reads it."""
        if self.unused and re.match(self.unused, name):
            return None
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name


def _exact(**names: str) -> Rules:
    """Rules for whole first parts of a name; `__` stands for a dot."""
    return [(rf"^{old.replace('__', '[.]')}[.]", f"{new}.") for old, new in names.items()]


RESNET18 = [(r"^(conv1|bn1|layer\d)[.]", r"encoder.\1."), *_exact(last_conv="head")]
UP = [
    *((rf"^Up{level + 1}[.]up[.]", f"decoder{level}.up.") for level in (4, 3, 2, 1)),
    *((rf"^Up_conv{level + 1}[.]conv[.]", f"decoder{level}.fuse.") for level in (4, 3, 2, 1)),
    *_exact(Up1__up="full_resolution.up", Up_conv1__conv="full_resolution.fuse", Conv="head"),
]
UNET_RESNET = [
    *_exact(encoder1__0="encoder.conv1", encoder1__1="encoder.bn1"),
    *((rf"^encoder{level + 1}[.]", f"encoder.layer{level}.") for level in (1, 2, 3, 4)),
    *UP,
]

RAUNET = [
    *_exact(firstconv="encoder.conv1", firstbn="encoder.bn1"),
    (r"^encoder(\d)[.]", r"encoder.layer\1."),
    *_exact(gau3="attention4", gau2="attention3", gau1="attention2"),
    *(
        (rf"^(attention\d)[.]conv{number}[.]", rf"\1.{part}.")
        for number, part in enumerate(("high", "low", "weight.", "skip"), start=1)
    ),
    (r"[.]weight[.][.]0[.]", ".weight."),
    *(
        (rf"^(decoder\d)[.]{old}[.]", rf"\1.{new}.")
        for old, new in (
            *(("conv1", "0.0"), ("norm1", "0.1"), ("deconv2", "1")),
            *(("norm2", "2"), ("conv3", "4.0"), ("norm3", "4.1")),
        )
    ),
    *_exact(finaldeconv1="head.0", finalconv2="head.2", finalconv3="head.4"),
]

UNET = [(r"^Conv([1-4])[.]conv[.]", r"encoder\1."), (r"^Conv5[.]conv[.]", "bottleneck."), *UP]

UNETPP = [
    *(
        (rf"^(conv\d_\d)[.]{old}[.]", rf"\1.{new}.")
        for old, new in zip(("conv1", "bn1", "conv2", "bn2"), "0134", strict=True)
    ),
    (r"^conv(\d_\d)[.]", r"nodes.\1."),
    *_exact(final="head"),
]

PSPNET = [
    *_exact(backbone__conv2="encoder.stem.0.0", backbone__bn2="encoder.stem.0.1"),
    *_exact(backbone__conv3="encoder.stem.1.0", backbone__bn3="encoder.stem.1.1"),
    *_exact(backbone="encoder", master_branch__0__bottleneck="pyramid.fuse", master_branch__1="head.1"),
    (r"^master_branch[.]0[.]stages[.](\d)[.]1[.]", r"pyramid.levels.\1.1.0."),
    (r"^master_branch[.]0[.]stages[.](\d)[.]2[.]", r"pyramid.levels.\1.1.1."),
]

ERFNET = [
    *_exact(encoder__initial_block="initial", encoder__layers__0="stage1.0", encoder__layers__6="stage2.0"),
    *((rf"^encoder[.]layers[.]{number}[.]", f"stage1.{number}.") for number in range(1, 6)),
    *((rf"^encoder[.]layers[.]{number}[.]", f"stage2.{number - 6}.") for number in range(7, 15)),
    (r"^(initial|stage[12][.]0)[.]conv[.]", r"\1.convolution."),
    (r"^(initial|stage[12][.]0)[.]bn[.]", r"\1.finish.0."),
    *((rf"^decoder[.]layers[.]{number}[.]", f"stage{3 + number // 3}.{number % 3}.") for number in range(6)),
    (r"^(stage[34][.]0)[.]conv[.]", r"\1.0."),
    (r"^(stage[34][.]0)[.]bn[.]", r"\1.1."),
    *(
        (rf"[.]{old}[.]", f".branch.{new}.")
        for old, new in zip(("conv3x1_1", "conv1x3_1", "bn1", "conv3x1_2", "conv1x3_2", "bn2"), "023578", strict=True)
    ),
    *_exact(decoder__output_conv="head"),
]

ESPNET = [
    *_exact(encoder__level1__conv="initial.0", encoder__level1__bn="initial.1.0", encoder__level1__act="initial.1.1"),
    (r"^encoder[.]b(\d)[.]bn[.]", r"join\1.0."),
    (r"^encoder[.]b(\d)[.]act[.]", r"join\1.1."),
    (r"^encoder[.]level(\d)_0[.]", r"down\1."),
    (r"^encoder[.]level(\d)[.]", r"stage\1."),
    *_exact(encoder__classifier__conv="up3.0", br="up3.1", up_l3__0="up3.2", level3_C__conv="skip2"),
    *_exact(combine_l2_l3__0__bn="decoder2.0.0", combine_l2_l3__0__act="decoder2.0.1", combine_l2_l3__1="decoder2.1"),
    *_exact(up_l2__0="up2.0", up_l2__1__bn="up2.1.0", up_l2__1__act="up2.1.1"),
    *_exact(conv__conv="decoder1.0", conv__bn="decoder1.1.0", conv__act="decoder1.1.1", classifier="head"),
    (r"[.]c1[.]conv[.]", ".reduce."),
    *((rf"[.]d{1 << number}[.]conv[.]", f".dilated.{number}.") for number in range(5)),
    (r"[.]bn[.]bn[.]|(?<=^down\d)[.]bn[.]", ".finish.0."),
    (r"[.]bn[.]act[.]|(?<=^down\d)[.]act[.]", ".finish.1."),
]

ENET = [
    *_exact(initial__conv="initial.convolution", initial__bn="initial.finish.0", initial__act="initial.finish.1"),
    (r"^(bottleneck[23]_[37])[.]conv2[.](\d)[.]", r"\1.branch.3+\2."),
    (r"^(bottleneck[23]_[37])[.]conv3[.](\d)[.]", r"\1.branch.7+\2."),
    (r"[.]conv1[.](\d)[.]", r".branch.\1."),
    (r"[.]conv2[.](\d)[.]", r".branch.3+\1."),
    (r"[.]conv3[.](\d)[.]", r".branch.6+\1."),
    *((rf"[.]{first}[+]{second}[.]", f".{first + second}.") for first in (3, 6, 7) for second in range(4)),
    (r"^(bottleneck\d_\d+)[.]act[.]", r"\1.activation."),
    (r"^(bottleneck[12]_0)[.]conv_down[.]", r"\1.shortcut."),
    (r"^(bottleneck[45]_0)[.]conv[.]", r"\1.shortcut."),
    (r"^(bottleneck[45]_0)[.]block[.]", r"\1.branch."),
    (r"^bottleneck([12])_0[.]", r"down\1."),
    (r"^bottleneck([45])_0[.]", r"up\1."),
    *((rf"^bottleneck(\d)_{number}[.]", rf"stage\1.{number - 1}.") for number in range(1, 9)),
    *_exact(fullconv="head"),
]

DEEPLABV3PLUS = [
    *_exact(pretrained__conv1="encoder.stem.0", pretrained__bn1="encoder.stem.1"),
    *_exact(pretrained__conv2="encoder.quarter.0", pretrained__bn2="encoder.quarter.1"),
    *((rf"^pretrained[.]conv{number}[.]", f"encoder.exit.{2 * number - 4}.") for number in (3, 4, 5)),
    *((rf"^pretrained[.]bn{number}[.]", f"encoder.exit.{2 * number - 4}.3.") for number in (3, 4, 5)),
    # blocks that begin with a ReLU count one further, but for the third convolution of block20, after the missing norm
    (r"^pretrained[.](block3|midflow[.]\d+)[.]rep[.]([147])[.]", r"pretrained.\1.branch.\2."),
    (r"^pretrained[.](block3|midflow[.]\d+)[.]rep[.]([258])[.]", r"pretrained.\1.norm.\2."),
    (r"^pretrained[.]block20[.]rep[.]([14])[.]", r"pretrained.block20.branch.\1."),
    (r"^pretrained[.]block20[.]rep[.]2[.]", "pretrained.block20.norm.2."),
    (r"^pretrained[.](block\d+)[.]rep[.]0[.]", r"pretrained.\1.branch.1."),
    (r"^pretrained[.](block\d+)[.]rep[.]1[.]", r"pretrained.\1.norm.2."),
    (r"^pretrained[.](block\d+)[.]rep[.]3[.]", r"pretrained.\1.branch.4."),
    (r"^pretrained[.](block\d+)[.]rep[.]4[.]", r"pretrained.\1.norm.5."),
    (r"^pretrained[.](block\d+)[.]rep[.]6[.]", r"pretrained.\1.branch.7."),
    (r"^pretrained[.](block\d+)[.]rep[.]7[.]", r"pretrained.\1.norm.8."),
    *((rf"[.]branch[.]{old}[.](?=conv1|bn|pointwise)", f".branch.{new}.") for old, new in ((4, 3), (7, 5))),
    *((rf"[.]norm[.]{old}[.]", f".branch.{new}.3.") for old, new in ((2, 1), (5, 3), (8, 5))),
    *(
        (rf"[.]{old}[.](?=weight|bias|running|num)", f".{new}.")
        for old, new in (("skip", "shortcut.0"), ("skipbn", "shortcut.1"))
    ),
    *_exact(pretrained__block1="encoder.quarter.3", pretrained__block2="encoder.entry.0"),
    *_exact(
        pretrained__block3="encoder.entry.1", pretrained__midflow="encoder.middle", pretrained__block20="encoder.exit.0"
    ),
    *((rf"^(encoder[.].+[.]\d)[.]{old}[.]", rf"\1.{new}.") for old, new in (("conv1", 0), ("bn", 1), ("pointwise", 2))),
    *_exact(head__aspp__b0="pyramid.point", head__aspp__b4__gap__1="pyramid.pooled.1.0"),
    *_exact(head__aspp__b4__gap__2="pyramid.pooled.1.1", head__aspp__project="pyramid.fuse"),
    *((rf"^head[.]aspp[.]b{number + 1}[.]block[.]", f"pyramid.dilated.{number}.") for number in range(3)),
    *_exact(head__c1_block__conv="skip.0", head__c1_block__bn="skip.1", head__block__4="head.1"),
    (r"^head[.]block[.]([02])[.]conv[.]", r"refine.\1.0."),
    (r"^head[.]block[.]([02])[.]bn[.]", r"refine.\1.1."),
]

HDKD = [
    *((rf"^stage1[.]{number}[.]{part}[.]", f"stage1..{3 * number + part}.") for number in range(6) for part in (0, 1)),
    (r"^stage1[.][.]", "stage1."),
    (r"[.]proj[.]", ".shortcut.1."),
    (r"[.]conv[.]norm[.]", ".branch.0."),
    (r"[.]conv[.]fn[.]6[.]spatial_attention[.]conv1[.]", ".branch.7.spatial."),
    (r"[.]conv[.]fn[.]6[.]channel_attention[.]fc[.]", ".branch.7.channel."),
    *((rf"[.]conv[.]fn[.]{number}[.]", f".branch.{number + 1}.") for number in range(9)),
    (r"^DFLT_module[.]pos_embedding$", "transformer.position"),
    *(
        (rf"^DFLT_module[.]to_patch_embedding[.]{number}[.]", f"transformer.embed.project.{number - 1}.")
        for number in (1, 2, 3)
    ),
    (r"^DFLT_module[.]transformer[.]norm[.]", "transformer.norm."),
    (r"^DFLT_module[.]transformer[.]layers[.](\d+)[.]", r"transformer.blocks.\1."),
    *(
        (rf"^(transformer[.]blocks[.]\d+)[.]0[.]{old}[.]", rf"\1.{new}.")
        for old, new in (("norm", "norm"), ("to_qkv", "attention.qkv"), ("to_out[.]0", "attention.proj"))
    ),
    *((rf"[.]1[.]net[.]{old}[.]", f".feed_forward.{new}.") for old, new in (("0", "fc1"), ("3", "fc2"))),
    *_exact(head_cls="class_head", head_distill="distillation_head", fn1="reduce"),
]
TOKENS = "DFLT_module.cls_token", "DFLT_module.distill_token"

EMKD, HLFD, BOTH = "EMKD", "HLFD", "EMKD or HLFD"
LAYOUTS = {
    "raunet": Layout(EMKD, "gau3.conv1.0.weight", RAUNET, head="head.4.weight", stem="encoder.conv1.weight"),
    "unet": Layout(BOTH, "Conv5.conv.0.weight", UNET),
    "unet++": Layout(BOTH, "conv0_4.conv1.weight", UNETPP, as_published=True),
    "pspnet": Layout(
        EMKD,
        "master_branch.0.bottleneck.0.weight",
        PSPNET,
        head="head.1.weight",
        stem="encoder.conv1.weight",
        as_published=True,
    ),
    "deeplabv3+": Layout(
        EMKD,
        "head.aspp.project.0.weight",
        DEEPLABV3PLUS,
        head="head.1.weight",
        unused=r"pretrained[.]fc[.]",
        as_published=True,
    ),
    "mobilenetv2": Layout(
        BOTH,
        "features.18.0.weight",
        _exact(last_conv="head"),
        unused=r"classifier[.]",
        stem="features.0.0.weight",
        as_published=True,
    ),
    "enet": Layout(EMKD, "fullconv.weight", ENET, axis=1, unused=r"bottleneck3_5[.]", as_published=True),
    "erfnet": Layout(EMKD, "decoder.output_conv.weight", ERFNET, axis=1, unused=r"encoder[.]output_conv[.]"),
    "espnet": Layout(EMKD, "level3_C.conv.weight", ESPNET, as_published=True),
    "resnet18": Layout(BOTH, "layer4.1.conv2.weight", RESNET18, stem="encoder.conv1.weight", as_published=True),
    "unet_r50": Layout(HLFD, "encoder5.2.conv3.weight", UNET_RESNET, as_published=True),
    "unet_r18": Layout(HLFD, "encoder5.1.conv2.weight", UNET_RESNET, as_published=True),
    "teacher_model": Layout("HDKD", "fn1.weight", HDKD, head="classifier.weight"),
    "HDKD": Layout("HDKD", TOKENS[1], HDKD, head="class_head.weight", joined=("transformer.tokens", TOKENS)),
    "student_model": Layout(
        "HDKD", TOKENS[0], HDKD, head="class_head.weight", joined=("transformer.tokens", TOKENS[:1])
    ),
}
