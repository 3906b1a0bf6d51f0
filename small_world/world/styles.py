"""The drawing styles as data: palette, texture on figure and ground, outline, wobble, finish."""

from dataclasses import dataclass

from . import held_out


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
    "delft": _style("fbfcff e8c65a a8c8f4 12245a ffffff", "2b59c3 4a78d8",
                    behind="diamonds", finish="tiles"),
    "gingham": _style("3a7d44 f2b134 7a1f2b 2b1408 fffaf0", "fffdf8 e4505f",
                      behind="checks", outline=1.6, ink="fffaf0"),
    "denim": _style("e8e2d0 c98b4a b0413e 1c2b45 fffdf5", "2f4a73 46689c",
                    behind="slant", fill="grain", fill_depth=0.3, ink="c98b4a", outline=1.3),
    "jade": _style("2e8b6a 6cc2a0 c8a24a 12382c eaf8f0", "f0e6d2 d6c59c",
                   behind="waves", finish="emboss"),
    "arcade": _style("ff4d4d 4dd2ff ffe14d 1a1a40 ffffff", "14142b 34346e",
                     behind="bigchecks", finish="pixelate"),
    "origami": _style("f25757 f7a072 ffd6a5 5c2a2a fff8f0", "b8d8d8 8dbdbd",
                      behind="broad", fill="fall", fill_depth=0.7, ink="40202a"),
    "manga": _style("ffffff e8e8e8 bbbbbb 000000 ffffff", "fafafa c4c4c4",
                    behind="rays", fill="dots", fill_depth=0.6, ink="000000", outline=1.8),
    "aurora": _style("6a3fc0 1f9c86 b89a2c 241046 7fc8b0", "0b1d3a 1fae8a",
                     behind="fall", finish="glow"),
    "camo": _style("7d8c44 a39b5e 4a4a2a 1f2414 e6e2c0", "cdbb86 a89868",
                   behind="blotches", fill="blotches", fill_depth=0.8, ink="343a1c", outline=1.2),
    "sorbet": _style("ff9a8b ffd3a5 8fdcbb b5557a fffdf9", "fff1f4 ffd3de",
                     behind="diamonds", fill="vstripes", fill_depth=0.6, ink="ffffff"),
    "chrome": _style("b4bec8 8a949e e8eef2 23282e ffffff", "4a5560 2b323a",
                     behind="hstripes", finish="emboss"),
    "circus": _style("1f7ac4 ffcc1d e63329 3a0f0f fffbe8", "fff3d6 ef5a5a",
                     behind="rays", outline=2.0, ink="3a0f0f"),
    "lagoon": _style("f08a5d efca08 00878a 05445e f4fffd", "c9f5ee 7fd6c8",
                     behind="rings", outline=1.4, ink="05445e"),
    "sonar": _style("39ff88 1fa35a c8ffdc 06301a eafff2", "03140c 0d4a2b",
                    behind="rings", finish="glow"),
    "quilt": _style("d65d7a f2c6a0 7a9e7e 4a2540 fff6ea", "f6e7d8 bccdaa",
                    behind="bigchecks", fill="hatch", fill_depth=0.5, ink="fff6ea", outline=1.6),
    "plum": _style("6d2e6b b65fa3 f3b562 2a0f2e fde9f5", "ecdcf0 cba6d8",
                   behind="waves", fill="slant", fill_depth=0.5, ink="f3d0ea", outline=1.2),
    "static": _style("d0d4dc 9aa3b5 f0c040 20242c ffffff", "3c4454 6d788c",
                     behind="grain", finish="scanlines"),
    "cork": _style("7a4e2d a9713f 3f5f4a 2e1a0c f7ead2", "d9b183 b98550",
                   behind="grain", outline=1.5, ink="f7ead2", wobble=1.0),
}  # fmt: skip

# Styles added since the first vocabulary; their words have later ids.
LATER_STYLES = tuple(STYLES)[46:]

# What the shipped base model has seen, most of all the first; the rest is left to LoRAs.
CORE_STYLES = tuple(
    "flat comic neon blueprint pastel ink sunset gold ocean poster forest night".split()
)
HELD_OUT_STYLES = held_out.STYLES
TRAINED_STYLES = tuple(name for name in STYLES if name not in HELD_OUT_STYLES)
