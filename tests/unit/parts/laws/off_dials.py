"""Which dials may be named as too strong, by method and prompt: none of a role that is off."""

STRENGTH, CFG = 3.0, 7.0  # their product is far more than pictures bear
DIALS = ("content_strength", "style_strength")
_PROMPTS = {
    "<c>a sks animal</c> in <s>zwx style</s>": DIALS,
    "<c>a sks animal</c> in zwx style": DIALS[:1],
    "a sks animal in <s>zwx style</s>": DIALS[1:],
    "a sks animal in zwx style": (),
}


def named_dials(methods):
    """(method, prompt, the dials that are named) at STRENGTH and CFG."""
    return [
        (method, prompt, dials if method.traits.markers else DIALS)
        for method in methods
        for prompt, dials in _PROMPTS.items()
    ]


def dials_in(texts):
    return tuple(dial for dial in DIALS if any(dial in text for text in texts))
