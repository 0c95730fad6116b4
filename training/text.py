"""Trains the tokenizer and the text encoder, which learns to encode the whole request in every token.

So the transformers may read any token: each contains shape, colour, ground and motion, or that an attribute is open.
"""

# ruff: noqa: RUF001 (Chinese prompts have Chinese punctuation)

import random

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from training.loop import Curve, descend
from training.prompts import FILLERS, NEGATIVES, phrase, understand
from training.scenes import COLOURS, MOTIONS, SHAPES, training_scenes
from training.settings import Training

TOKENS = 64
"""The number of tokens to which training prompts are padded."""

_SCENES = training_scenes()
_PAD, _EOS, _UNKNOWN = "<pad>", "</s>", "<unk>"
_ATTRIBUTES = {"shape": SHAPES, "colour": tuple(COLOURS), "ground": tuple(COLOURS), "motion": MOTIONS}


def training_prompt(scene_index: int, rng: random.Random) -> str:
    """Return a prompt for a training scene; one in five has additional words that ask for nothing."""
    prompt = phrase(_SCENES[scene_index], rng)
    if rng.random() < 0.2:
        filler = rng.choice(FILLERS)
        separator = ", " if filler.isascii() else "，"
        prompt = f"{prompt}{separator}{filler}" if rng.random() < 0.7 else f"{filler}{separator}{prompt}"
    return prompt


def blank_prompt(rng: random.Random) -> str:
    """Return a prompt that names no scene: most often the empty one."""
    draw = rng.random()
    if draw < 0.6:
        return ""
    if draw < 0.8:
        return rng.choice(NEGATIVES)
    return ", ".join(rng.sample(FILLERS, rng.randint(1, 3)))


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Return a fast BPE tokenizer with tokens for the words of prompts, the Latin letters and Chinese characters."""
    rng = random.Random(seed)
    tokenizer = Tokenizer(models.BPE(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[^a-z0-9]"), "isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[_PAD, _EOS, _UNKNOWN], show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789请画要作为有它，。、：是"),
    )  # fmt: skip
    corpus = [training_prompt(rng.randrange(len(_SCENES)), rng) for _ in range(8000)]
    tokenizer.train_from_iterator([*corpus, *FILLERS, *NEGATIVES], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_EOS}", special_tokens=[(_EOS, tokenizer.token_to_id(_EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_EOS, unk_token=_UNKNOWN, model_max_length=512
    )


def build_encoder(vocabulary: int) -> UMT5EncoderModel:
    """Return an untrained text encoder for a tokenizer of ``vocabulary`` tokens."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary, d_model=96, d_kv=24, num_heads=4, d_ff=192, num_layers=2, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1, is_encoder_decoder=False,
        )
    )  # fmt: skip


def train(settings: Training, device: str) -> tuple[PreTrainedTokenizerFast, UMT5EncoderModel, Curve]:
    """Train the encoder with one temporary classifier per attribute, applied at every token."""
    torch.manual_seed(settings.seed + 2)
    rng = random.Random(settings.seed + 2)
    tokenizer = build_tokenizer(settings.seed)
    encoder = build_encoder(len(tokenizer)).to(device)
    heads = nn.ModuleDict({name: nn.Linear(96, len(names) + 1) for name, names in _ATTRIBUTES.items()}).to(device)

    # All prompts are tokenized once; batches are drawn from them.
    prompts = [training_prompt(rng.randrange(len(_SCENES)), rng) for _ in range(settings.text_prompts)]
    prompts += [blank_prompt(rng) for _ in range(settings.text_prompts // 10)]
    ids, mask = tokenize(tokenizer, prompts, device)
    _add_strangers(ids, mask, len(tokenizer), torch.Generator(device).manual_seed(settings.seed + 5))
    wishes = [understand(prompt) for prompt in prompts]
    labels = {
        name: torch.tensor([_label(names, getattr(wish, name)) for wish in wishes], device=device)
        for name, names in _ATTRIBUTES.items()
    }
    generator = torch.Generator(device).manual_seed(settings.seed + 2)

    def step(_: int) -> dict[str, Tensor]:
        chosen = torch.randint(len(prompts), (settings.text_batch,), device=device, generator=generator)
        tokens, present = ids[chosen], mask[chosen]
        states = encoder(tokens, present).last_hidden_state[present.bool()]
        lengths = present.sum(dim=1)
        losses, right = [], []
        for name, head in heads.items():
            scores, wanted = head(states), labels[name][chosen].repeat_interleave(lengths)
            losses.append(F.cross_entropy(scores, wanted))
            right.append((scores.argmax(dim=1) == wanted).float().mean())
        loss = torch.stack(losses).sum()
        encoder.zero_grad()
        heads.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss, "wrong": 1 - torch.stack(right).mean()}

    curve = descend("text encoder", [encoder, heads], step, settings.text_steps, settings.text_rate)
    return tokenizer, encoder.eval().requires_grad_(False), curve


def _add_strangers(ids: Tensor, mask: Tensor, vocabulary: int, generator: torch.Generator) -> None:
    """Insert up to four tokens that no prompt uses into about half of the prompts, in place.

    The encoder thereby learns that unknown words do not change the meaning of the others.
    """
    used = torch.bincount(ids.flatten(), minlength=vocabulary) > 0
    strangers = torch.nonzero(~used).flatten()
    if len(strangers) == 0:
        return
    count, width = ids.shape

    def rand(high: int) -> Tensor:
        return torch.randint(high, (count,), device=ids.device, generator=generator)

    for _ in range(4):
        lengths = mask.sum(dim=1)
        chosen = (rand(6) == 0) & (lengths < width)
        at = rand(1 << 20) % lengths
        moved = torch.cat([strangers[rand(len(strangers))][:, None], ids[:, :-1]], dim=1)
        places = torch.arange(width, device=ids.device)[None]
        shifted = torch.where(places < at[:, None], ids, moved)
        shifted.scatter_(1, at[:, None], moved[:, :1])
        ids.copy_(torch.where(chosen[:, None], shifted, ids))
        mask.copy_((places < (lengths + chosen)[:, None]).to(mask.dtype))


def _label(names: tuple[str, ...], wanted: str | None) -> int:
    return len(names) if wanted is None else names.index(wanted)


def tokenize(tokenizer: PreTrainedTokenizerFast, prompts: list[str], device: str) -> tuple[Tensor, Tensor]:
    """Return ids and mask, each of shape (prompts, TOKENS)."""
    tokens = tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return tokens.input_ids.to(device), tokens.attention_mask.to(device)


@torch.no_grad()
def embed(tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, prompts: list[str], device: str) -> Tensor:
    """Return the embeddings as WanPipeline computes them, zero after the end: bfloat16, (prompts, TOKENS, 96)."""
    ids, mask = tokenize(tokenizer, prompts, device)
    batches = [
        encoder(ids[start : start + 4096], mask[start : start + 4096]).last_hidden_state
        * mask[start : start + 4096, :, None]
        for start in range(0, len(prompts), 4096)
    ]
    return torch.cat(batches).bfloat16()
