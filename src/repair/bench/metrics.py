"""The standard harnesses' metrics as arithmetic on numbers, tensors and replies.

Knows log-probabilities, logits and texts; knows nothing of models, prompts or data sets.

Log-probabilities are natural, T of them for an answer of T tokens, each given all that comes
before it. Sources: TOFU (arXiv 2401.06121) for probability, truth ratio, forget quality and
model utility; MUSE (2407.06460) for ROUGE-L F1 of VerbMem and KnowMem and for PrivLeak;
Min-K% (2310.16789) and Min-K%++ (2404.02936); OpenUnlearning (2506.12618) for extraction
strength, exact memorisation, and what counts as a token of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from repair.errors import UsageError
from repair.verify import confidence_interval, rouge_l_recall

# The smallest variance of log-probabilities that Min-K%++ divides by, as in the harness: a
# distribution that is certain, or uniform, has none.
_LEAST_VARIANCE = 1e-6
# e^709 is the largest power of e that a double holds.
_LARGEST_EXPONENT = 709.0


# Probability and truth ratio


def probability(logprobs: Tensor) -> float:
    """exp(mean log-probability) of an answer (T): its probability per token, 0 to 1.

    Raises:
        UsageError: no tokens.
    """
    return math.exp(_mean(logprobs))


def normalized_probability(correct: float, wrong: Sequence[float]) -> float:
    """The right answer's share of the probability of all options, 0 to 1.

    TOFU's probability for real authors and world facts. 0 when every option has 0.

    Raises:
        UsageError: no wrong options.
    """
    _needs("wrong option", wrong)
    total = correct + math.fsum(wrong)
    return correct / total if total else 0.0


def truth_ratio(correct: Sequence[Tensor], wrong: Sequence[Tensor]) -> float:
    """R = P_wrong / P_correct: how much likelier, per token, wrong answers are than right ones.

    P is exp(mean log-probability) of an answer (T), and of several answers their geometric
    mean. ``correct`` are paraphrases of the right answer where there are any. Computed as one
    exponential, as TOFU does; harnesses that add 1e-10 to P_correct differ only when a
    model gives the answer less than about 1e-8 a token.

    Raises:
        UsageError: an answer without tokens, or no answers on one side.
    """
    _needs("right answer", correct)
    _needs("wrong answer", wrong)
    right = math.fsum(_mean(logprobs) for logprobs in correct) / len(correct)
    false = math.fsum(_mean(logprobs) for logprobs in wrong) / len(wrong)
    return math.exp(min(false - right, _LARGEST_EXPONENT))


def forget_truth(ratio: float) -> float:
    """min(R, 1/R): 1 when the right answer is as likely as the wrong ones, towards 0 if not."""
    return min(ratio, 1 / ratio) if ratio > 0 else 0.0


def kept_truth(ratio: float) -> float:
    """max(0, 1 − R): towards 1 when the right answer is much likelier than the wrong ones."""
    return max(0.0, 1 - ratio)


def forget_quality(ratios: Sequence[float], oracle_ratios: Sequence[float]) -> float:
    """p-value, 0 to 1, that both samples of truth ratios come from one distribution.

    The two-sided two-sample Kolmogorov-Smirnov test: 1 when the unlearned model's truth
    ratios on the forget set are spread as those of the oracle, which never learned it.

    Raises:
        UsageError: a sample is empty.
    """
    _needs("truth ratio", ratios)
    _needs("truth ratio of the oracle", oracle_ratios)
    # Imported on first use: it takes about a second to load.
    from scipy.stats import ks_2samp  # type: ignore[import-untyped]

    return float(ks_2samp(list(ratios), list(oracle_ratios)).pvalue)


def harmonic_mean(values: Sequence[float]) -> float:
    """n / Σ 1/v, and 0 as soon as one value is 0.

    Model utility is this over {probability, ROUGE-L recall, truth ratio} of each set that
    is to be kept.

    Raises:
        UsageError: no values, or one below 0.
    """
    _needs("value", values)
    if min(values) < 0:
        raise UsageError("A harmonic mean needs values of at least 0.")
    return 0.0 if min(values) == 0 else len(values) / math.fsum(1 / value for value in values)


# Memorisation, teacher-forced


def exact_memorization(hits: Tensor) -> float:
    """Share of an answer's tokens (T, bool) that are the model's most likely ones.

    Raises:
        UsageError: no tokens.
    """
    _needs("token", hits)
    return float(hits.double().mean())


def extraction_strength(hits: Tensor) -> float:
    """1 − k/T, k being the fewest first tokens after which every further one is a hit.

    1 when the whole answer comes out unaided, 0 when even its last token does not (the common
    harness gives 1/T there, as it never tries k = T). ``hits`` (T, bool) says which tokens
    are the model's most likely ones when all before them are given.

    Raises:
        UsageError: no tokens.
    """
    _needs("token", hits)
    misses = (~hits.bool()).nonzero()
    k = int(misses[-1]) + 1 if len(misses) else 0
    return 1 - k / len(hits)


# Generation


def rouge_l_f1(answer: str, reply: str) -> float:
    """ROUGE-L F1 with the stemmer, 0 to 1: VerbMem of a continuation, KnowMem of an answer.

    Precision is recall with the two texts exchanged.
    """
    recall, precision = rouge_l_recall(answer, reply), rouge_l_recall(reply, answer)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


# Membership


def vocabulary_moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean μ and standard deviation σ (each T, fp32) of log p under p, from logits (T × V).

    p is the next-token distribution itself, so μ is its negative entropy.
    """
    logprobs = log_softmax(logits.float(), dim=-1)
    chances = logprobs.exp()
    mean = (chances * logprobs).sum(-1)
    # Squared distances, for E[x²] − μ² cancels in fp32.
    variance = (chances * (logprobs - mean.unsqueeze(-1)).square()).sum(-1)
    return mean, variance.clamp(min=_LEAST_VARIANCE).sqrt()


def min_k(logprobs: Tensor, share: float = 0.4) -> float:
    """Min-K%: mean of the lowest ``share`` of an answer's values (T); higher if seen before.

    The number of values is rounded down, and at least 1.

    Raises:
        UsageError: no tokens, or ``share`` outside 0 to 1.
    """
    _needs("token", logprobs)
    if not 0.0 <= share <= 1.0:
        raise UsageError(f"The share of tokens must be from 0 to 1, not {share}.")
    count = max(1, int(len(logprobs) * share))
    return float(logprobs.double().sort().values[:count].mean())


def min_k_plus_plus(logprobs: Tensor, mean: Tensor, deviation: Tensor, share: float = 0.4) -> float:
    """Min-K%++: Min-K% of (log p − μ)/σ, with each token's ``vocabulary_moments`` (all T).

    Raises:
        UsageError: no tokens, or ``share`` outside 0 to 1.
    """
    return min_k((logprobs.double() - mean.double()) / deviation.double(), share)


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Chance that a member's value is above another's, a tie counting half; 0.5 is a guess.

    Raises:
        UsageError: no members, or no others.
    """
    return float(win_matrix(members, others).mean())


def win_matrix(members: Sequence[float], others: Sequence[float]) -> Tensor:
    """1 where member i is above other j, ½ where they tie, else 0 (m × n, fp64).

    Raises:
        UsageError: no members, or no others.
    """
    _needs("member", members)
    _needs("text that is no member", others)
    rows = torch.tensor(list(members), dtype=torch.float64).unsqueeze(1)
    columns = torch.tensor(list(others), dtype=torch.float64).unsqueeze(0)
    return (rows > columns).double() + (rows == columns).double() / 2


def privleak(forget_auc: float, reference_auc: float = 0.5) -> float:
    """100 (s − s_ref)/s_ref with s = 1 − AUC of Min-40 %, forget set against holdout.

    0 when forgotten texts look as unseen as they do to the oracle, whose AUC is
    ``reference_auc`` (0.5 stands for one that cannot tell); −100 when they are still
    recognised, above 0 when they look less familiar than texts never seen.

    Raises:
        UsageError: an AUC outside 0 to 1, or a reference of 1, which leaves no unit.
    """
    if not (0.0 <= forget_auc <= 1.0 and 0.0 <= reference_auc <= 1.0):
        raise UsageError("PrivLeak needs areas under the curve from 0 to 1.")
    if reference_auc == 1.0:
        raise UsageError(
            "PrivLeak is undefined: the oracle itself tells every forgotten text from the others.",
            "Use a holdout set of the same kind as the forget set.",
        )
    reference = 1 - reference_auc
    return 100 * ((1 - forget_auc) - reference) / reference


# Multiple choice


def chosen(logprobs: Sequence[float]) -> int:
    """Index of the likeliest option; of equal ones the first.

    Raises:
        UsageError: no options.
    """
    _needs("option", logprobs)
    return max(range(len(logprobs)), key=logprobs.__getitem__)


# Intervals


class Score(TypedDict):
    """One figure with the ends of its 95 % confidence interval and its number of records."""

    mean: float
    low: float
    high: float
    n: int


def mean_score(values: Sequence[float]) -> Score:
    """Mean of values from 0 to 1 with Wilson's interval.

    Raises:
        UsageError: no values.
    """
    _needs("value", values)
    mean, low, high = confidence_interval(values)
    return {"mean": mean, "low": low, "high": high, "n": len(values)}


def bootstrap_score(
    statistic: Callable[..., float],
    sizes: Sequence[int],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """The statistic of all records, and where it lies in 95 % of samples drawn from them.

    ``statistic`` takes one tensor of indices (int64) per group of ``sizes``, whose sum is n.
    The interval always holds the value itself, which a statistic biased under resampling,
    such as a p-value, can leave.

    Raises:
        UsageError: no groups, an empty one, or no resamples.
    """
    if not sizes or min(sizes) < 1 or resamples < 1:
        raise UsageError("A bootstrap needs at least one record per set and one resample.")
    value = statistic(*(torch.arange(size) for size in sizes))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.tensor(
        [
            statistic(*(torch.randint(size, (size,), generator=generator) for size in sizes))
            for _ in range(resamples)
        ],
        dtype=torch.float64,
    )
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = drawn.quantile(ends).tolist()
    return {"mean": value, "low": min(low, value), "high": max(high, value), "n": sum(sizes)}


def _needs(what: str, values: Tensor | Sequence[object]) -> None:
    if len(values) == 0:
        raise UsageError(f"This metric needs at least one {what}.")


def _mean(logprobs: Tensor) -> float:
    _needs("token", logprobs)
    return float(logprobs.double().mean())
