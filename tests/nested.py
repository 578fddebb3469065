"""Made predictions of clips that are nested in groups, whose true scores are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reporting.scores import Floats, Ints

CLASSES = 10
MEAN_CLIPS, MOST_CLIPS = 10, 80  # in a group: mostly few, sometimes many
SHARPNESS = 2.6  # of the softmax: close to calibrated, but not quite
LESS_ABLE = 0.2  # system b, in the right class's logit


@dataclass(frozen=True)
class Predictions:
    """Clips in groups, and three systems' probabilities, each (clips, CLASSES): b is less able than a, c as able."""

    truth: Ints
    group: Ints
    a: Floats
    b: Floats
    c: Floats


def make(generator: np.random.Generator, groups: int, margin: float) -> Predictions:
    """The right class's logit is larger by `margin`, and by a skill that all clips of a group share."""
    size = np.minimum(1 + generator.negative_binomial(1, 1 / MEAN_CLIPS, groups), MOST_CLIPS)
    group = np.repeat(np.arange(groups), size)
    clips = np.arange(len(group))
    truth = generator.integers(CLASSES, size=len(group))
    skill = generator.standard_normal(groups)[group]
    shared = 0.8 * generator.standard_normal((len(group), CLASSES), np.float32)  # between systems

    def system(able: float) -> Floats:
        logits = shared + 0.6 * generator.standard_normal(shared.shape, np.float32)
        logits[clips, truth] += able + skill
        logits -= logits.max(1, keepdims=True)
        power = np.exp(SHARPNESS * logits)
        return power / power.sum(1, keepdims=True)

    return Predictions(truth, group, system(margin), system(margin - LESS_ABLE), system(margin))
