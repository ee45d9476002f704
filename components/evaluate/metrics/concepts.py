"""What concept vectors do: whether their attribute comes and goes along them, and what else does."""

from latentfaces.common.concepts import pack_concepts
from latentfaces.components.evaluate.concepts import BAR, STEPS, concepts
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Fact, Result, Table, number, percent, register_metric


@register_metric("concepts", about=Autoencoder)
def measure(model: Autoencoder) -> Result | None:
    """For each attribute what is told of a `MeasuredConcept`, and `concepts.npz`, which holds the vectors.

    `effects` are in the attributes' order; `shares` are those at each of the `steps`.
    """
    found = concepts(model)
    if not found:
        return None
    numbers = {
        each.name: {
            "works": each.works,
            "strength": each.strength,
            "images": each.images,
            "success": each.success,
            "leakage": each.leakage,
            "identity": each.identity,
            "effects": each.effects.tolist(),
            "steps": STEPS.tolist(),
            "shares": each.shares.tolist(),
        }
        for each in found
    }
    failed = ", ".join(each.title for each in found if not each.works)
    table = Table(
        "Concepts",
        f"Held-out images, {max(each.images for each in found):,} at most, are moved along an attribute's "
        "vector, or against it where they have the attribute, by as many times the vector as is best. "
        "“Changed”: the classifier then reads the attribute otherwise than off the reconstruction; “others "
        "changed”: another attribute, on average. “Identity kept” is all where an image stays the same, and "
        "none where it comes to differ as two real images do. A concept works if “changed” is at least "
        f"{100 * BAR:g} points above “others changed”, and the classifier has so many more hits than false "
        "alarms on real images. " + (f"Not working: {failed}." if failed else "All work."),
        columns=["", "works", "times\nthe vector", "changed", "others\nchanged", "identity\nkept"],
        rows=[
            [
                each.title,
                "yes" if each.works else "no",
                number(each.strength),
                percent(each.success),
                percent(each.leakage),
                percent(each.identity),
            ]
            for each in found
        ],
    )
    facts = [Fact("Concepts that work", f"{sum(each.works for each in found)} of {len(found)}")]
    return Result(numbers, facts, [table], {"concepts.npz": pack_concepts(found, model.generator.sha256)})
