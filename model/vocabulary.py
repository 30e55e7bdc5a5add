"""The embedded model's tokenizer: byte-level BPE over the simulator's questions, in Hugging Face layout."""

from collections.abc import Iterator
from random import Random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.grounding import WHEN, WHERE
from simulator.questions import FAMILIES, ask, describe, detail
from simulator.visits import CAMERAS
from simulator.watching import watch
from simulator.world import Site

END, START, ANSWER, IMAGE, VIDEO = "<|end|>", "<|watch|>", "<|answer|>", "<image>", "<video>"
SPECIAL = [END, START, ANSWER, IMAGE, VIDEO]
# The question follows the frames, as in LLaVA; one opening token serves as the attention's resting place.
TEMPLATE = (
    START
    + "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'video' %}"
    + VIDEO
    + "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    + ANSWER
)


def corpus(sites: int = 400) -> Iterator[str]:
    """Questions and answers of many sites, for their words."""
    r = Random("vocabulary")
    for seed in range(sites):
        start = r.uniform(0, 86_400)
        shots = watch(Site(seed), r.sample(CAMERAS, r.choice((1, 1, 3))), [start + s for s in range(40)])
        for family in (*FAMILIES, describe, detail):
            for _ in range(6):
                if quiz := ask(shots, r, family):
                    yield quiz.text
                    yield quiz.answer


def build() -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same corpus gives the same one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=[*SPECIAL, WHERE, WHEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, padding_side="right")
    wrapped.add_special_tokens({"additional_special_tokens": [START, ANSWER, IMAGE, VIDEO]})
    wrapped.chat_template = TEMPLATE
    return wrapped
