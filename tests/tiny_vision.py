"""Tiny vision-language models with random weights and their own processors; no downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.conftest import HIDDEN, INNER, SPECIAL, VOCABULARY, tiny_tokenizer

if TYPE_CHECKING:
    from repair.patient import Patient

FAMILIES = ("llava", "qwen2_vl", "smolvlm", "idefics3")
SIDE = 28
_IMAGE = {"qwen2_vl": "<|image_pad|>"}
_PLACE = {"qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>"}
_MORE = {
    "qwen2_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"],
    "llava": ["<image>"],
}
_FAKE = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
_TEMPLATE = (
    "<|begin|>{% for message in messages %}<|{{ message['role'] }}|>"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _tokenizer(family: str) -> Any:
    tokenizer: Any = tiny_tokenizer(chat_template=None)
    tokens = _MORE.get(family, _FAKE)
    tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIAL[3:], *tokens]})
    tokenizer.chat_template = _TEMPLATE.replace("IMAGE", _PLACE.get(family, "<image>"))
    return tokenizer


def _text(size: int) -> dict[str, Any]:
    return {
        "vocab_size": size,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _config(family: str, tokenizer: Any) -> Any:
    from transformers import AutoConfig

    text = _text(len(tokenizer))
    image = tokenizer.convert_tokens_to_ids(_IMAGE.get(family, "<image>"))
    tower = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": 7,
    }  # fmt: skip
    if family == "llava":
        return AutoConfig.for_model(
            family,
            text_config={"model_type": "llama", **text},
            vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **tower},
            image_token_index=image,
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
        )
    if family == "qwen2_vl":
        return AutoConfig.for_model(
            family,
            text_config={
                **text,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
            },
            vision_config={
                "depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": HIDDEN,
                "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2, "mlp_ratio": 2,
            },
            image_token_id=image,
            video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
            vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
            vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        )  # fmt: skip
    return AutoConfig.for_model(
        family,
        text_config={"model_type": "llama", **text},
        vision_config=tower,
        image_token_id=image,
        scale_factor=2,
        pad_token_id=0,
    )


def _processor(family: str, tokenizer: Any) -> Any:
    size = {"height": SIDE, "width": SIDE}
    if family == "llava":
        from transformers.models.llava.processing_llava import LlavaProcessor
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        return LlavaProcessor(
            SiglipImageProcessorPil(size=size),
            tokenizer,
            patch_size=7,
            vision_feature_select_strategy="full",
        )
    if family == "qwen2_vl":
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        from repair.sight import GridProcessor

        images = Qwen2VLImageProcessorPil(
            patch_size=7, merge_size=2, size={"shortest_edge": 196, "longest_edge": 28 * 56}
        )
        return GridProcessor(images, tokenizer, _IMAGE[family])
    how = {
        "size": {"longest_edge": SIDE},
        "max_image_size": {"longest_edge": SIDE},
        "do_image_splitting": False,
    }
    # SmolVLM's own processor also wants a video processor, which needs torchvision; the
    # pictures' part of it is Idefics3's.
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    return Idefics3Processor(Idefics3ImageProcessorPil(**how), tokenizer, image_seq_len=4)


def tiny_vision_patient(family: str, *, seed: int = 0) -> Patient:
    """A patient of one family: two layers, m 48, d 32, pictures of four tokens or more."""
    import torch
    from transformers import AutoModelForImageTextToText

    from repair.patient import Patient
    from repair.sight import Sight

    tokenizer = _tokenizer(family)
    config = _config(family, tokenizer)
    factory: Any = AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = factory.from_config(config)
    return Patient(model, tokenizer, name=family, sight=Sight(model, _processor(family, tokenizer)))


__all__ = ["FAMILIES", "VOCABULARY", "tiny_vision_patient"]
