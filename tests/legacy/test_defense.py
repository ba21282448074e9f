"""Defense strings: read as the published code reads them, or refused with advice that names no other defense."""

from __future__ import annotations

import contextlib
import re
from difflib import SequenceMatcher
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from published import layouts, save_layout
from splitveil.config import Spec
from splitveil.defenses.base import Stack
from splitveil.defenses.cem import CEM
from splitveil.defenses.local_dp import LocalDP
from splitveil.errors import UserError
from splitveil.legacy import import_checkpoint, read_options
from splitveil.legacy.command import run
from splitveil.legacy.defense import PARTS, QUALIFIERS, as_published, read_defense
from splitveil.runs import Run

pytestmark = pytest.mark.usefixtures("quick_weights")


def substring_reading(text: str) -> dict[str, Any]:
    """What the published training takes from a string: it asks only whether words occur in it."""

    def number(convert: Any, written: str, otherwise: Any) -> Any:
        with contextlib.suppress(ValueError):
            return convert(written)
        return otherwise

    found: dict[str, Any] = {name: name in text for name in ("nopeek", "SCA", "gan_adv", "local_dp")}
    found["squared"] = found["nopeek"] and "ttitcombe" in text
    found["laplace"] = found["local_dp"] and "laplace" in text
    found["noise"] = found["gan_adv"] and "noise" in text
    found["steps"] = number(int, text.split("step")[-1], 3) if found["gan_adv"] and "step" in text else 3
    found["epoch"] = number(int, text.split("pruning")[-1], 140) if "pruning" in text else None
    for name in ("dropout", "topkprune"):
        after = text.split(name)[1].split("_")[0] if name in text else ""
        found[name] = number(float, after, "strength") if name in text else None
    return found


WORDS = [
    *("gan_adv", "nopeek", "dropout", "dropout0.2", "topkprune0.4", "SCA", "local_dp", "pruning", "pruning60"),
    *("noise", "step1", "step5", "ttitcombe", "laplace", "new"),
]
STRANGE = ["gaussian", "noise0.1", "topk", "prune", "dp", "gan", "adv", "stp1", "nopeak", "drop", "x", "2", "Gaussian"]


def kind(word: str) -> str:
    return re.sub(r"[\d.]", "", word)


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5, unique_by=kind).map("_".join))
@example("noise_nopeek")
@example("pruning180_nopeek")
def test_a_string_of_known_words_is_read_as_the_published_code_reads_it(text: str):
    expected = substring_reading(text)
    if not any(name in text for name in PARTS):
        with pytest.raises(UserError, match=f"reads {text} as no defense: write None for that"):
            read_defense(text)
        return
    option = read_defense(text)
    parts = option.parts
    assert {name: name in parts for name in ("nopeek", "SCA", "gan_adv", "local_dp")}.items() <= expected.items()
    assert ("ttitcombe" in parts, "laplace" in parts, "noise" in parts) == tuple(
        expected[name] for name in ("squared", "laplace", "noise")
    )
    if "gan_adv" in parts:
        assert option.steps_of_code == expected["steps"]
    assert (option.epoch_of_code if "pruning" in parts else None) == expected["epoch"]
    for name in ("dropout", "topkprune"):
        assert (("strength" if parts[name] is None else parts[name]) if name in parts else None) == expected[name]


@given(st.lists(st.sampled_from([*WORDS, *STRANGE]), min_size=1, max_size=5).map("_".join))
@example("xnopeek_gan_advy_step2")
def test_what_the_published_code_reads_can_be_written(text: str):
    reads = as_published(text)
    assert substring_reading(reads) == substring_reading(text)
    assert read_defense(reads).text == as_published(reads) == reads


@given(st.lists(st.sampled_from([*WORDS, *STRANGE]), min_size=1, max_size=4).map("_".join))
@example("noise_nopeek")
@example("noise0.1_nopeek")
@example("dropot_nopeek")
def test_no_hint_loses_a_defense_or_leads_to_a_word_unlike_the_one_given(text: str):
    try:
        read_defense(text)
    except UserError as error:
        message = str(error)
        if hint := re.search(r"did you mean '([^']*)'\?", message):
            offered = read_defense(hint[1])
            assert read_defense(as_published(text)).parts.keys() <= offered.parts.keys()
            given_, new = text.split("_"), hint[1].split("_")
            changed = [pair for pair in zip(given_, new, strict=False) if pair[0] != pair[1]]
            assert len(changed) == 1
            old, right = (kind(part).lower() for part in changed[0])
            assert SequenceMatcher(None, old, right).ratio() > 0.7
        if advice := re.search(r"write (\S+) for that", message):
            assert advice[1] == as_published(text)
            run(["--AT_regularization", advice[1]])


@pytest.mark.parametrize(
    ("text", "same", "word", "owner"),
    [
        ("noise_nopeek", "nopeek", "noise", "gan_adv"),
        ("nopeek_step1", "nopeek", "step1", "gan_adv"),
        ("laplace_dropout0.2", "dropout0.2", "laplace", "local_dp"),
        ("new_topkprune0.2", "topkprune0.2", "new", "SCA"),
        ("ttitcombe_local_dp_laplace", "local_dp_laplace", "ttitcombe", "nopeek"),
        ("noise_pruning180", "pruning180", "noise", "gan_adv"),
    ],
)
@pytest.mark.parametrize("reading", ["paper", "code"])
def test_a_word_without_its_defense_changes_nothing_and_is_said(
    text: str, same: str, word: str, owner: str, reading: Any
):
    found = read_options(["--AT_regularization", text], reading=reading)
    assert found.settings == read_options(["--AT_regularization", same], reading=reading).settings
    (note,) = [note for note in found.notes if "the published code reads" in note and text in note]
    assert f"reads {text} as {same}" in note
    assert f"'{word}' counts beside {owner} only" in note


@pytest.mark.parametrize(
    ("text", "hint", "reads"),
    [
        ("gaussian_nopeek", "", "nopeek: write nopeek"),
        ("nopeek_gaussian", "", "nopeek: write nopeek"),
        ("topk", "", "no defense: write None"),
        ("gan_noise", "", "no defense: write None"),
        ("pca_dropout0.2", "", "dropout0.2: write dropout0.2"),
        ("sca", "SCA", "no defense: write None"),
        ("dropot_nopeek", "dropout_nopeek", "nopeek: write nopeek"),
        ("gan_adv_step", "gan_adv_step1", "gan_adv: write gan_adv"),
        ("prunning60_nopeek", "pruning60_nopeek", "nopeek: write nopeek"),
        ("local_dp_laplce", "local_dp_laplace", "local_dp: write local_dp"),
        ("xgan_adv_step2", "", "gan_adv_step2: write gan_adv_step2"),
    ],
)
def test_an_unknown_word_is_refused_with_what_the_published_code_makes_of_it(text: str, hint: str, reads: str):
    with pytest.raises(UserError) as caught:
        run(["--AT_regularization", text])
    message = str(caught.value)
    assert message.startswith(f"--AT_regularization {text}: '")
    assert f"the published code reads the whole as {reads} for that" in message
    assert (f"did you mean '{hint}'" in message) if hint else ("did you mean" not in message)


@pytest.mark.parametrize("text", ["laplace", "step1", "noise", "new_noise", "ttitcombe"])
def test_a_qualifier_alone_is_no_defense(text: str):
    with pytest.raises(UserError, match=rf"counts beside .* only, as in .*reads {text} as no defense: write None"):
        run(["--AT_regularization", text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Gausian", "did you mean 'Gaussian'?"),
        ("Gaussian_c3", "the published code reads it as Gaussian: write Gaussian for that; expected Gaussian,"),
        ("gaussian_nopeek", "--regularization gaussian_nopeek: 'gaussian' is no part of a defense; the published"),
        ("noise_dropot", "--regularization noise_dropot: 'dropot' is no part of a defense; "),
    ],
)
def test_the_older_option_leads_to_no_other_defense(text: str, message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        run(["--regularization", text, "--regularization_strength", "1"])


@pytest.mark.parametrize(
    ("text", "paper", "code"),
    [("pruning180", 180, 180), ("pruning180_nopeek", 180, 140), ("gan_adv_pruning60_step1", 60, 140)],
)
def test_the_pruning_epoch_is_what_the_string_says_or_what_is_read(text: str, paper: int, code: int):
    for reading, epoch in (("paper", paper), ("code", code)):
        found = read_options(["--AT_regularization", text], reading=reading)  # type: ignore[arg-type]
        assert f"patrol:epoch={epoch}" in found.settings["defense"]
        said = [note for note in found.notes if f"says epoch {paper}, and the published parser reads {code}" in note]
        assert len(said) == (paper != code)


@pytest.mark.parametrize("name", ["noise_nopeek", "laplace_nopeek"])
def test_a_checkpoint_folder_of_such_a_name_comes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    place = (
        tmp_path / f"{name}_infocons_sgm_lg1_thre0.125" / "lambd_16_noise_0.025_epoch_240_bottleneck_noRELU_C8S1_log_1"
    )
    folder = save_layout(layouts()["nopeek"], place)
    imported = import_checkpoint(folder, tmp_path / "run", options=["--cutlayer=4"])
    assert [spec.name for spec in Run.open(tmp_path / "run").settings.defense] == ["gaussian", "nopeek", "cem"]
    assert any(f"reads {name} as nopeek" in note for note in imported.notes)


def test_a_refused_folder_name_has_a_way_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "gaussian_nopeek_infocons_sgm" / "lambd_16_noise_0.025_epoch_240_bottleneck_noRELU_C8S1_log_1"
    folder = save_layout(layouts()["nopeek"], place)
    with pytest.raises(UserError, match="write nopeek for that"):
        run([str(folder), "--out", str(tmp_path / "run")])
    assert "imported" in run([str(folder), "--out", str(tmp_path / "run"), "--AT_regularization", "nopeek"])


@pytest.mark.parametrize("scheme", ["V3_batch", "orig", "V2", "V1_batch"])
def test_a_scheme_that_trains_nothing_is_refused(scheme: str):
    with pytest.raises(UserError, match=f"--scheme {scheme} trains nothing in the published code.*write V2_epoch"):
        run(["--lambd", "0", "--scheme", scheme])


@pytest.mark.parametrize(("scheme", "said"), [("V2_epoch", 0), ("V1_epoch", 1), ("orig_epoch", 1)])
def test_other_schemes_are_said(scheme: str, said: int):
    notes = read_options(["--lambd", "0", "--scheme", scheme]).notes
    assert sum(f"--scheme {scheme} says when" in note for note in notes) == said


@pytest.mark.parametrize(
    ("line", "crashes", "floor"),
    [
        ("--lambd 16", True, False),
        ("--lambd 16 --regularization None --regularization_strength 0.025", False, True),
        ("--lambd 16 --regularization_strength 0.1", False, True),
        ("--lambd 16 --regularization None --regularization_strength 0", True, False),
        ("--lambd 16 --regularization Gaussian --regularization_strength 0", True, False),
        ("--lambd 16 --regularization Gaussian --regularization_strength 0.025", False, False),
        ("--lambd 0 --regularization_strength 0.025", False, False),
        ("--lambd 16 --regularization nopeek --regularization_strength 3", False, True),
        ("--lambd 16 --AT_regularization local_dp --AT_regularization_strength 10", True, False),
        ("--lambd 16 --AT_regularization local_dp_laplace --AT_regularization_strength 10", True, False),
    ],
)
@pytest.mark.parametrize("reading", ["paper", "code"])
def test_a_strength_alone_switches_the_published_clusters_on(line: str, crashes: bool, floor: bool, reading: Any):
    notes = read_options(line.split(), reading=reading).notes
    assert any("crashes the published code in epoch 2" in note for note in notes) == crashes
    assert any("without Gaussian in --regularization adds no noise" in note for note in notes) == floor


@pytest.mark.parametrize("reading", ["paper", "code"])
@pytest.mark.parametrize("kind", ["local_dp", "local_dp_laplace", "local_dp_dropout0.2", "nopeek"])
@pytest.mark.parametrize("epsilon", [1.0, 10.0])
@pytest.mark.parametrize(
    ("line", "strength"),
    [
        ("--regularization Gaussian --regularization_strength 0.025", 0.025),
        ("--regularization Gaussian_kl --regularization_strength 0.3", 0.3),
        ("--regularization_strength 0.1", 0.1),
        ("", 0.0),
    ],
)
def test_lambda_leaves_clusters_alone_by_the_strength_and_not_by_local_dp(
    line: str, strength: float, epsilon: float, kind: str, reading: Any
):
    """The published floor τσ² knows regularization_strength only, which local_dp's noise would outweigh 300 times."""
    words = f"--lambd 16 --var_threshold 0.2 --AT_regularization {kind} --AT_regularization_strength {epsilon} {line}"
    found = read_options(words.split(), reading=reading)
    parts = [Spec.model_validate(text).make("defenses") for text in found.settings["defense"]]
    model = SimpleNamespace(wire_shape=(8, 8, 8), defense=Stack(*parts))
    for part in parts:
        if isinstance(part, LocalDP | CEM):
            part.install(model)
    (cem,) = (part for part in parts if isinstance(part, CEM))
    no_floor = any("here none are" in note for note in found.notes)
    assert no_floor == (strength == 0.1 and kind in ("local_dp_laplace", "nopeek"))  # no noise to measure it by
    assert cem.threshold * cem.sigma2 == pytest.approx(0 if no_floor else 0.2 * strength**2, rel=1e-5)
    said = any("whatever noise local_dp adds" in note for note in found.notes)
    assert said == (kind in ("local_dp", "local_dp_dropout0.2"))


@pytest.mark.parametrize(("reading", "noise"), [("paper", "local_dp"), ("code", "gaussian")])
def test_what_is_zeroed_comes_after_the_noise_of_local_dp(reading: Any, noise: str):
    """The published code adds noise first, so that the wire shows which entries it has set to zero."""
    line = "--AT_regularization local_dp_dropout0.2_topkprune0.2 --AT_regularization_strength 10"
    defense = read_options(line.split(), reading=reading).settings["defense"]
    assert [text.partition(":")[0] for text in defense] == [noise, "dropout", "topk"]


@pytest.mark.parametrize(("epsilon", "published", "ours"), [(10.0, "0.4344", "0.4999"), (1.0, "4.344", "3.731")])
def test_both_deviations_of_local_dp_are_said(epsilon: float, published: str, ours: str):
    """The published formula at δ = 1e-4, the exact mechanism at 1e-5."""
    line = f"--AT_regularization local_dp --AT_regularization_strength {epsilon}"
    (note,) = [note for note in read_options(line.split()).notes if "the published noise" in note]
    assert f"= {published} with δ = 1e-4" in note
    assert f"σ = {ours} is the least with which ε and δ = 1e-5 hold" in note


def test_the_words_do_not_begin_alike():
    """Else the first that fits would hide another."""
    patterns = {name: re.compile(pattern) for name, pattern in PARTS.items()} | {
        name: re.compile(pattern) for name, (pattern, _) in QUALIFIERS.items()
    }
    for text in WORDS:
        assert sum(pattern.fullmatch(text) is not None for pattern in patterns.values()) == 1
