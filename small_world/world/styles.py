"""The drawing styles as data: palette, texture on figure and ground, outline, wobble, finish."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """How any object is drawn.

    `colours`: main, second, accent, dark, light (the roles of the parts); `ground`: the two
    colours of the background.  `fill` and `behind` name textures; `fill_depth` is how far a
    filled part goes to the `ink` colour under its texture.  `outline` is a width in pixels,
    `wobble` an amplitude, `finish` names a whole-picture treatment.
    """

    colours: tuple[str, str, str, str, str]
    ground: tuple[str, str]
    behind: str = "flat"
    fill: str = "flat"
    fill_depth: float = 0.35
    ink: str = "#101018"
    outline: float = 0.0
    wobble: float = 0.0
    finish: str = "none"


def _style(colours: str, ground: str, **rest) -> Style:
    """Colours written as space-separated hex digits without the sign."""
    main, second, accent, dark, light = (f"#{c}" for c in colours.split())
    first, other = (f"#{c}" for c in ground.split())
    if "ink" in rest:
        rest["ink"] = f"#{rest['ink']}"
    return Style((main, second, accent, dark, light), (first, other), **rest)


STYLES: dict[str, Style] = {
    "flat": _style("e4572e f3a712 29335c 1b1b2a fafafa", "a8d5e2 a8d5e2"),
    "comic": _style("ffd400 ff3b30 2a7fff 000000 ffffff", "ffffff 7fd4ff",
                    behind="bigdots", outline=2.0),
    "neon": _style("ff2bd6 00e5ff c6ff00 3a0a5e ffffff", "0a0618 0a0618",
                   outline=1.6, ink="00ffe1", finish="glow"),
    "blueprint": _style("1c4fa0 2b62b8 17428a 0f2f68 3f78cc", "123c86 3d70c0",
                        behind="grid", outline=1.3, ink="eaf4ff"),
    "chalk": _style("d9d9d0 b8c4b8 e8d8a8 6a7a70 f6f6f0", "243b33 2c463d",
                    behind="blotches", fill="grain", fill_depth=0.9, ink="243b33", wobble=1.2),
    "woodcut": _style("2a1a10 2a1a10 2a1a10 2a1a10 efe0c0", "efe0c0 d8c49a",
                      behind="lines", fill="slant", fill_depth=0.95, ink="efe0c0", outline=1.5),
    "pastel": _style("f7b7c5 b5d8f7 f9e2ae 9a8fb8 ffffff", "fdf4e8 e3f4e1", behind="fall"),
    "sepia": _style("a9794a c89f6a 7f5530 4a2f18 f2e2c2", "ead6ad b89363",
                    behind="vignette", fill="grain", fill_depth=0.25, ink="4a2f18"),
    "candy": _style("ff5fa2 6be3ff ffe45e a0306f ffffff", "fff0f7 ff9ecb",
                    behind="broad", fill="slant", ink="ffffff", fill_depth=0.8),
    "ink": _style("ffffff ffffff dddddd 000000 ffffff", "ffffff ffffff",
                  outline=2.2, ink="000000", wobble=0.8),
    "noir": _style("8a8a8a b8b8b8 5c5c5c 000000 f4f4f4", "202020 4a4a4a", behind="rays"),
    "halftone": _style("e01f3d f58fa0 8c1026 300510 fff2f2", "fff6e0 ffe2b0",
                       behind="fall", finish="halftone"),
    "mosaic": _style("2e86ab f18f01 c73e1d 3b1f2b f6f5ae", "7fb069 e6eed6",
                     behind="bigchecks", finish="tiles"),
    "sunset": _style("7b2d5b b23a6b f9c74f 2d1038 ffe9c2", "ff7b3a ffd36e", behind="fall"),
    "forest": _style("3f7d3a 7fae4d c98f3d 1f3320 eaf2d0", "cfe3b4 8fbf7f",
                     behind="waves", outline=1.0, ink="1f3320"),
    "ice": _style("7cc6f2 b9e4fb 4a90c2 1d4e7a ffffff", "e9f8ff bfe6fa",
                  behind="diamonds", finish="emboss"),
    "lava": _style("ff5a00 ffb000 ffe04a 2b0500 fff2c0", "3a0a00 8a1c00",
                   behind="scales", fill="waves", fill_depth=0.4, ink="5a0a00"),
    "gold": _style("e0b030 c08a1a fff0a0 5a3c08 fff8dc", "2a1a3a 2a1a3a",
                   outline=1.2, ink="fff0a0", finish="emboss"),
    "pixel": _style("49a54d d95763 fbf236 222034 ffffff", "5fcde4 cbdbfc",
                    behind="split", finish="pixelate"),
    "sketch": _style("fbfbf6 f0f0ea e2e2dc 555555 ffffff", "fbfbf6 f2f2ec",
                     fill="hatch", fill_depth=0.6, ink="555560", outline=1.2, wobble=1.5),
    "glass": _style("d7263d 1b998b f4d35e 2e294e c5e7e2", "3a86c8 7a4fb5",
                    behind="bigchecks", outline=3.0, ink="0a0a0a"),
    "bubblegum": _style("ff7ac6 ffb3e0 7a5cff b02a86 ffffff", "c9b8ff ffd6f2",
                        behind="bigdots", outline=1.4, ink="ffffff"),
    "retro": _style("d9772b e8b04a 3f7f7a 4a2c18 f3e3c0", "f3e3c0 d9a066", behind="rings"),
    "thermal": _style("ff3000 ffc400 ff8a00 5a00b0 ffff90", "10006a 2a00a0",
                      behind="vignette", finish="blur"),
    "xray": _style("a8c8d8 88a8c0 c8e0ec 486880 e8f6ff", "04080c 0a1a26",
                   behind="vignette", fill="fall", fill_depth=0.6, ink="04080c", finish="blur"),
    "knit": _style("c8413b 3d6fa5 e8c15a 5a2a2a f5efe2", "e9dfc8 d3c3a0",
                   behind="scales", fill="scales", fill_depth=0.45, ink="3a1010"),
    "stamp": _style("b3202a b3202a b3202a f6eedd f6eedd", "f6eedd f6eedd",
                    fill="blotches", fill_depth=0.3, ink="f6eedd", wobble=0.8),
    "terminal": _style("18a030 0f7a22 30ff60 063010 b0ffc0", "020a04 052010",
                       behind="lines", finish="scanlines"),
    "poster": _style("f25f5c 247ba0 ffe066 50514f ffffff", "70c1b3 f2e9d8", behind="rays"),
    "tartan": _style("1f5f3f a82030 e8d8a0 101830 f4f0e0", "28386a b03a48",
                     behind="checks", outline=1.4, ink="f4f0e0"),
    "desert": _style("c1693c e2a765 6b8f71 5b2f1c fbe9c8", "f6dca6 e9b872",
                     behind="split", fill="grain", fill_depth=0.2, ink="5b2f1c"),
    "night": _style("5a6fd0 8a5fc0 ffe890 10103a c8d4ff", "0c1036 3a3f8a", behind="dots"),
    "lino": _style("1f4e5f 1f4e5f 1f4e5f 1f4e5f f4ead5", "f0b67f f0b67f",
                   fill="vstripes", fill_depth=0.9, ink="f4ead5", wobble=0.6),
    "brick": _style("b5533c d98a5f 8c3a2b 40180f f0d9c0", "c96f52 e3b79b",
                    behind="bricks", outline=1.2, ink="40180f"),
    "meadow": _style("f2c14e f78154 b4436c 4d5a20 fdfbe4", "8fd16a 5fae55",
                     behind="grain", outline=1.0, ink="ffffff"),
    "ocean": _style("1b6ca8 0fb5ae f7d774 0a2540 e6fbff", "7fd8e8 3aa6c8", behind="waves"),
    "royal": _style("6a2c91 d4af37 b01030 240838 fff4d0", "f3e6ff c9a8e8",
                    behind="diamonds", outline=1.2, ink="d4af37"),
    "poppy": _style("e63946 f4a5ae 1d3557 0d1b2a f1faee", "f1faee a8dadc",
                    behind="vstripes", outline=1.6, ink="1d3557"),
    "moss": _style("6b8e23 9db17c 4f5d2f 2a3010 eef2d6", "d6d9b8 a9b388",
                   fill="dots", fill_depth=0.5, ink="2a3010", behind="blotches"),
    "copper": _style("b87333 7fb8a4 d99a6c 3a2410 f5e6d8", "24403a 2f5a50",
                     behind="hatch", finish="emboss"),
    "vapor": _style("ff71ce 01cdfe fffb96 2d1b69 ffffff", "b967ff 05ffa1",
                    behind="hstripes", outline=1.4, ink="2d1b69"),
    "charcoal": _style("4a4a48 7a7a76 2e2e2c 121212 e8e6e0", "d8d5cc c4c0b4",
                       behind="grain", fill="hatch", fill_depth=0.8, ink="101010", wobble=1.5),
    "citrus": _style("ff9f1c ffd23f 8ac926 c44900 ffffff", "fff7c2 d5f08a",
                     behind="bigdots", fill="dots", fill_depth=0.8, ink="ffffff", outline=1.8),
    "stained": _style("0b6e4f c8102e f6ae2d 08080c fdf0d5", "14213d 3d5a98",
                      behind="scales", outline=2.6, ink="08080c"),
    "batik": _style("8a3324 d08c3f f2d4a0 2b0f0a fff3dc", "1d3f58 2f6f87",
                    behind="rings", fill="bigdots", fill_depth=0.8, ink="f2d4a0", outline=1.2),
    "riso": _style("ff4f4f 3255a4 ffe800 24387a fff9ee", "fff9ee ffc2b8",
                   behind="slant", finish="halftone"),
}  # fmt: skip

# What the shipped base model has seen, most of all the first; the rest is left for LoRAs to bring.
CORE_STYLES = tuple(
    "flat comic neon blueprint pastel ink sunset gold ocean poster forest night".split()
)
HELD_OUT_STYLES = tuple(
    "vapor knit sepia lava thermal tartan stamp bubblegum copper mosaic riso charcoal meadow "
    "candy batik glass".split()
)
TRAINED_STYLES = tuple(name for name in STYLES if name not in HELD_OUT_STYLES)
