"""Training examples: what the model is taught is what was asked, said and shown."""

from random import Random

import numpy as np
import pytest
import torch
from test_questions import asked_about, shows
from transformers import PreTrainedTokenizerFast

from model import vocabulary
from model.examples import Batch, Example, Library, _collate, _seconds, _told, batch_of
from model.probe import WALKING, told
from model.vocabulary import ANSWER, END, VIDEO
from pipeline.grounding import WHEN, WHERE
from simulator.questions import Quiz
from simulator.visits import CAMERAS
from simulator.watching import Shot
from simulator.world import Site

SECONDS = 60


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return vocabulary.build()


@pytest.fixture(scope="module")
def library() -> Library:
    """Two sites' truth without pictures."""
    library = Library.__new__(Library)
    start = 5000.0
    library.times = [np.array([[start + s + 0.2 * c for s in range(SECONDS)] for c in range(len(CAMERAS))]) for _ in range(2)]
    library.truth = [
        [[site.sightings(c, t) for t in row] for c, row in zip(CAMERAS, times, strict=True)]
        for site, times in zip((Site(1, traffic=1.0), Site(2, traffic=1.0)), library.times, strict=True)
    ]
    return library


ASKED = {
    (4, 7, 9): Quiz(family="presence", text="Is there a red car now?", answer="yes", evidence=(0, 2)),
    (1,): Quiz(family="not seen", text="Where was the truck last seen?", answer="not seen"),
    (0, 2, 3, 8): Quiz(family="camera", text="Which camera saw the lorry last?", answer=WHERE, evidence=(3,)),
    (2, 5): Quiz(family="when", text="When was it last seen?", answer=WHEN, evidence=(0, 1)),
}
EXAMPLES = [Example(context=[*over], quiz=quiz, looks=(quiz.evidence, quiz.evidence[-1:])) for over, quiz in ASKED.items()]


def plain(text: str) -> str:
    return text.lower().strip()


def question_of(batch: Batch, i: int, tokenizer: PreTrainedTokenizerFast) -> str:
    return str(tokenizer.decode(batch.tokens[i, : int(batch.begins[i]) + 1]))


def answer_of(batch: Batch, i: int, tokenizer: PreTrainedTokenizerFast) -> str:
    return str(tokenizer.decode(batch.tokens[i][batch.answer[i]]))


def test_questions_answers_and_evidence_lie_where_the_batch_says(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = _collate([[0, 0, 1, *range(10)]], EXAMPLES, tokenizer)
    for i, example in enumerate(EXAMPLES):
        question, answer = question_of(batch, i, tokenizer), answer_of(batch, i, tokenizer)
        assert plain(question.removesuffix(ANSWER)) == plain(example.quiz.text)
        assert question.endswith(ANSWER)
        assert plain(answer.removesuffix(END)) == example.quiz.answer
        assert answer.endswith(END)
        places = batch.answer[i].nonzero().flatten().tolist()
        assert places == list(range(int(batch.begins[i]) + 1, places[-1] + 1))  # at once, behind the question
        assert set(batch.tokens[i, places[-1] + 1 :].tolist()) <= {tokenizer.pad_token_id}
        count = int(batch.counts[i])
        assert batch.context[i, :count].tolist() == example.context
        assert [head.nonzero().flatten().tolist() for head in batch.evidence[i]] == [list(look) for look in example.looks]
        assert not batch.context[i, count:].any()
        assert not batch.evidence[i, :, count:].any()
    assert batch.families == [example.quiz.family for example in EXAMPLES]


def test_a_question_is_taught_with_the_tokens_it_will_be_asked_with(tokenizer: PreTrainedTokenizerFast) -> None:
    """The tokens of a prompt behind the frames are those of training, so that serving meets nothing new."""
    text = EXAMPLES[0].quiz.text
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}], tokenize=False, add_generation_prompt=True
    )
    asked = tokenizer(prompt.partition(VIDEO)[2], add_special_tokens=False).input_ids
    batch = _collate([[0, 0, 1, *range(10)]], EXAMPLES, tokenizer)
    assert batch.tokens[0, : int(batch.begins[0]) + 1].tolist() == asked


@pytest.mark.parametrize("token", [WHERE, WHEN, END, ANSWER, VIDEO])
def test_what_points_and_what_ends_is_one_token(tokenizer: PreTrainedTokenizerFast, token: str) -> None:
    assert len(tokenizer(token, add_special_tokens=False).input_ids) == 1


def test_yes_and_no_begin_with_different_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    yes, no = ({tokenizer(f, add_special_tokens=False).input_ids[0] for f in (w, f" {w}", w.title())} for w in ("yes", "no"))
    assert not yes & no


@pytest.mark.parametrize("text", ["Was there a Café-truck at gate_7, 3.5 m tall? ☂", "a", "  two  spaces "])
def test_any_words_can_be_asked(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert plain(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids)) == plain(text)


def shots_of(batch: Batch, i: int, library: Library) -> list[Shot]:
    """The truth of the frames that a question's context points to."""
    frames = batch.clips.shape[1] - 3
    found = []
    for place in batch.context[i, : int(batch.counts[i])].tolist():
        site, mirrored, camera, *seconds = batch.clips[place // frames].tolist()
        found += library.shots(site, camera, [seconds[place % frames]], bool(mirrored))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_contexts_point_to_the_frames_that_the_question_was_made_from(
    library: Library, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    batch = batch_of(library, "questions", tokenizer, Random(seed))
    frames = batch.clips.shape[1] - 3
    checked = turned = 0
    for i, family in enumerate(batch.families):
        shots = shots_of(batch, i, library)
        assert [shot.at for shot in shots] == sorted(shot.at for shot in shots)
        places = batch.context[i, : int(batch.counts[i])]
        assert int(places.max()) < len(batch.clips) * frames
        assert len({tuple(batch.clips[p // frames, :2].tolist()) for p in places.tolist()}) == 1  # one site, one way round
        evidence = batch.evidence[i].any(0).nonzero().flatten().tolist()
        answer = plain(answer_of(batch, i, tokenizer).removesuffix(END))
        if family in ("presence", "camera", "how long ago", "colour", "direction"):
            (thing,) = asked_about(question_of(batch, i, tokenizer))
            assert all(shows(shots[e], thing) for e in evidence)
            assert bool(evidence) == (answer != "no")
            checked += 1
        if family == "direction":
            headings = {s.heading for e in evidence for s in shots[e].sightings if s.kind == thing[0] and thing[1] in ("", s.colour)}
            assert {1: "right", -1: "left"}[headings.pop()] == answer
            begins, ends = (shots[int(head.nonzero()[at])] for head, at in zip(batch.evidence[i], (0, -1), strict=True))
            assert begins.camera == ends.camera and begins.at <= ends.at
            turned += begins.at < ends.at
        if family == "not seen":
            assert not evidence
    assert checked >= 5 and turned


def test_frames_are_shown_in_short_clips_with_nothing_asked(library: Library, tokenizer: PreTrainedTokenizerFast) -> None:
    lengths = set()
    for seed in range(24):
        batch = batch_of(library, "frames", tokenizer, Random(seed))
        frames = batch.clips.shape[1] - 3
        lengths.add(frames)
        assert batch.families == []
        assert len(batch.clips) * frames == 96
    assert lengths == {1, 2, 8, 16}


def test_what_the_probe_reads_is_of_the_batchs_own_frames(library: Library, tokenizer: PreTrainedTokenizerFast) -> None:
    library._told = torch.stack([_told(truth) for truth in library.truth])
    batch = next(b for seed in range(12) if (b := batch_of(library, "frames", tokenizer, Random(seed))).clips.shape[1] > 4)
    read = library.told(batch)
    seen = 0
    for clip, rows in zip(batch.clips.tolist(), read, strict=True):
        site, mirrored, camera, *seconds = clip
        for i, (shot, row) in enumerate(zip(library.shots(site, camera, seconds, bool(mirrored)), rows, strict=True)):
            expected = torch.tensor(told(shot.sightings))
            if i == 0:
                expected[WALKING] = torch.nan  # which way somebody walks cannot be told from one picture
            assert torch.equal(row.nan_to_num(-9), expected.nan_to_num(-9))
            seen += bool(shot.sightings)
    assert seen > 20


def test_a_mirrored_clip_is_its_mirror_image(library: Library) -> None:
    for as_it_is, mirrored in zip(library.shots(0, 1, range(SECONDS), False), library.shots(0, 1, range(SECONDS), True), strict=True):
        assert mirrored.at == as_it_is.at
        for a, b in zip(as_it_is.sightings, mirrored.sightings, strict=True):
            assert b.box == pytest.approx((640 - a.box[2], a.box[1], 640 - a.box[0], a.box[3]))
            assert (b.heading, b.id, b.kind, b.colour, b.visible) == (-a.heading, a.id, a.kind, a.colour, a.visible)


def test_features_are_those_of_the_batchs_own_frames(library: Library, tokenizer: PreTrainedTokenizerFast) -> None:
    """Every feature is given its own number: site, mirrored, camera, second."""
    shape = (2, 2, len(CAMERAS), SECONDS)
    library._features = torch.arange(float(np.prod(shape))).reshape(*shape, 1, 1)
    batch = batch_of(library, "questions", tokenizer, Random(3))
    numbers = library.features(batch)[..., 0, 0]
    for clip, row in zip(batch.clips.tolist(), numbers.tolist(), strict=True):
        site, mirrored, camera, *seconds = clip
        assert row == [((site * 2 + mirrored) * len(CAMERAS) + camera) * SECONDS + s for s in seconds]


@pytest.mark.parametrize("frames", [1, 8, 32, 48])
def test_the_seconds_of_a_clip_are_as_many_as_asked_and_in_order(frames: int) -> None:
    dense = False
    for seed in range(40):
        seconds = _seconds(frames, SECONDS, Random(seed))
        assert len(seconds) == frames
        assert seconds == sorted(set(seconds))
        assert 0 <= seconds[0] <= seconds[-1] < SECONDS
        steps = np.diff(seconds)
        dense |= frames == 8 and (steps[4:] == 1).all() and steps[:4].max() > 1
    assert dense or frames != 8  # a memory that is dense only where it is young is among them
