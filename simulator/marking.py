"""Marks answers against the truth, and words the truth for people."""

from pipeline.grounding import NOT_SEEN, WHEN, WHERE
from simulator.questions import Quiz
from simulator.watching import Watch

WHEN_TOLERANCE_S = 3.0  # pictures are taken once a second


def correct(quiz: Quiz, watch: Watch, *, text: str, camera: str | None, at: float | None) -> bool:
    """Whether an answer is right: `text` as said, and the camera and site time of its first evidence, if any.

    Words must be the true ones; a `<where>` answer must point at the camera, a `<when>` answer within 3 s of the moment.
    """
    if quiz.answer not in (WHERE, WHEN):
        return text == quiz.answer
    if camera is None or at is None or text == NOT_SEEN:
        return False
    truth = watch.shots[quiz.evidence[-1]]
    if quiz.answer == WHERE:
        return camera == truth.camera
    return abs(at - truth.at) <= WHEN_TOLERANCE_S


def truth_words(quiz: Quiz, watch: Watch, now: float) -> str:
    """The true answer for people."""
    if quiz.answer not in (WHERE, WHEN):
        return quiz.answer
    truth = watch.shots[quiz.evidence[-1]]
    return truth.camera if quiz.answer == WHERE else f"{now - truth.at:.0f} seconds ago, on {truth.camera}"
