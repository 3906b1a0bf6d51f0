"""The text encoder in the host's own classes: a two-layer CLIP over a closed vocabulary."""

import logging

from comfy import clip_model, sd1_clip

from .architecture import TEXT_HEADS, TEXT_LAYERS, TEXT_LENGTH, TEXT_WIDTH, VOCABULARY_SIZE
from .vocabulary import END, START, UNKNOWN, build_words, encode, split_words

logger = logging.getLogger("craft")

CONFIG = {
    "architectures": ["CLIPTextModel"],
    "eos_token_id": END,
    "bos_token_id": START,
    "pad_token_id": END,
    "hidden_act": "gelu",
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "max_position_embeddings": TEXT_LENGTH,
    "num_attention_heads": TEXT_HEADS,
    "num_hidden_layers": TEXT_LAYERS,
}


class WordTokenizer:
    """One token a word; what the host's SDTokenizer expects of a tokenizer class."""

    def __init__(self):
        self.words = build_words()

    @classmethod
    def from_pretrained(cls, _path, **_options):
        return cls()

    def __call__(self, text: str) -> dict:
        ids = encode(text, self.words)
        if UNKNOWN in ids:
            unknown = [word for word in split_words(text) if word not in self.words]
            logger.warning("the small world does not know: %s", ", ".join(unknown))
        return {"input_ids": [START, *ids, END]}

    def get_vocab(self) -> dict[str, int]:
        return dict(self.words)

    def decode(self, ids, skip_special_tokens=True) -> str:
        names = {value: word for word, value in self.words.items()}
        special = (START, END) if skip_special_tokens else ()
        return " ".join(names[int(i)] for i in ids if int(i) not in special)


class SmallSDTokenizer(sd1_clip.SDTokenizer):
    """The host's tokenizer (weights, chunks, embeddings) around our words."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):  # noqa: B006 - host's signature
        super().__init__(
            tokenizer_path="",
            max_length=TEXT_LENGTH,
            embedding_directory=embedding_directory,
            embedding_size=TEXT_WIDTH,
            tokenizer_class=WordTokenizer,
            tokenizer_data=tokenizer_data,
        )


class SmallTokenizer(sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):  # noqa: B006 - host's signature
        super().__init__(
            embedding_directory=embedding_directory,
            tokenizer_data=tokenizer_data,
            tokenizer=SmallSDTokenizer,
        )


class SmallTextModel(clip_model.CLIPTextModel):
    """The host's CLIP text model with a token table of our size (the host's is fixed)."""

    def __init__(self, config_dict, dtype, device, operations):
        super().__init__(config_dict, dtype, device, operations)
        self.set_input_embeddings(
            operations.Embedding(VOCABULARY_SIZE, TEXT_WIDTH, dtype=dtype, device=device)
        )


class SmallClip(sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 - host's signature
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=TEXT_LENGTH,
            textmodel_json_config=dict(CONFIG),
            model_class=SmallTextModel,
            special_tokens={"start": START, "end": END, "pad": END},
            return_projected_pooled=False,
            model_options=model_options,
        )


class SmallClipModel(sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 - host's signature
        super().__init__(
            device=device, dtype=dtype, clip_model=SmallClip, model_options=model_options
        )
