"""The gate before an alias: a version takes it only if it scores no less than the one that holds it."""

from collections.abc import Mapping
from typing import Any

from pipelines import registry
from pipelines.lineage import comparable, lineage_of, made_otherwise, scores_of
from pipelines.registry import ModelVersion
from rtnet.errors import UserError

Scores = Mapping[str, Mapping[str, Any]]


def promote(uri: str, model: ModelVersion, alias: str, evaluation: str | None = None, force: bool = False) -> str:
    """Points the alias to a version; what was compared, in words.

    evaluation: the one whose J&F decides; None for the only one that both have on the same frames. Raises UserError
    where the holder's is higher or they can't be compared, unless forced, which is then kept with the version.
    """
    holders = [found for found in registry.list_versions(uri, model.name) if alias in found.aliases]
    if not holders:
        registry.set_alias(uri, model, alias)
        return f"no version was {alias}: nothing to compare with"
    (holder,) = holders
    if holder.version == model.version:
        return "it was already"
    mine, theirs = (scores_of(each, lineage_of(uri, each)) for each in (model, holder))
    try:
        said = compared(f"version {model.version}", mine, f"version {holder.version} ({alias})", theirs, evaluation)
    except UserError as refusal:
        if not force:
            raise UserError(
                f"{model.uri} does not become {alias}: {refusal}; --force promotes it all the same"
            ) from None
        said = f"forced, though {refusal}"
        registry.set_tag(uri, model, f"promotion/{alias}", said)
    registry.set_alias(uri, model, alias)
    return said


def compared(name: str, mine: Scores, holder: str, theirs: Scores, evaluation: str | None = None) -> str:
    """Both J&F in words. Raises UserError where the holder's is higher or they can't be compared."""
    if not mine and not theirs:
        return f"neither {name} nor {holder} has scores"
    if evaluation is None:
        evaluation = _only_common(name, mine, holder, theirs)
    for who, scores, others in ((name, mine, theirs), (holder, theirs, mine)):
        if evaluation not in scores:
            known = ", ".join(scores) or "none"
            missing = "neither has" if evaluation not in others else f"{who} has no"
            raise UserError(
                f"{missing} scores on {evaluation} ({who} has: {known}): "
                "predict with prediction.model=models:/NAME/VERSION, then evaluate its masks"
            )
    first, second = mine[evaluation], theirs[evaluation]
    if not comparable(first, second):
        raise UserError(f"{name} and {holder} were evaluated on other frames or annotations on {evaluation}")
    numbers = f"J&F on {evaluation}: {name} {first['JF']:.4f}, {holder} {second['JF']:.4f}"
    if unlike := made_otherwise(first, second):
        numbers += f"; not made alike: {', '.join(f'{n} {a} and {b}' for n, (a, b) in unlike.items())}"
    if not first["JF"] >= second["JF"]:
        raise UserError(numbers)
    return numbers


def _only_common(name: str, mine: Scores, holder: str, theirs: Scores) -> str:
    common = [each for each in mine if each in theirs and comparable(mine[each], theirs[each])]
    if len(common) == 1:
        return common[0]
    if common:
        raise UserError(f"several evaluations can decide: give --evaluation, one of {', '.join(common)}")
    has = (f"{who} has {', '.join(scores) or 'no scores'}" for who, scores in ((name, mine), (holder, theirs)))
    raise UserError(
        f"no evaluation of both on the same frames ({', '.join(has)}): "
        "predict with prediction.model=models:/NAME/VERSION, then evaluate its masks"
    )
