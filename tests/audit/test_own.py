"""The privacy card of a model and tensors."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil.audit import bounded
from splitveil.audit.card import page
from splitveil.audit.model_card import markdown
from splitveil.audit.own import _Case
from splitveil.audit.policy import Policy
from splitveil.audit.record import AUDIT
from splitveil.defenses.codec import codec_of
from splitveil.errors import UserError
from splitveil.evaluation import suites
from splitveil.model import digest_of

SIDE, CLASSES = 12, 3


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stripes whose direction is the class, with noise."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    waves = torch.stack([rows, columns, rows + columns]).float().mul(1.5).sin()
    x = 0.5 + 0.3 * waves[y][:, None] + 0.1 * torch.randn(count, 1, SIDE, SIDE, generator=rng)
    return x.clamp(0, 1), y


def made(sigma: float) -> sv.SplitModel:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * SIDE * SIDE, CLASSES)
    model = sv.split(nn.Sequential(*layers), at="1", example=images(1, 0)[0], defenses=[sv.Gaussian(sigma)])
    sv.fit(model, images(90, 1), epochs=2, batch_size=30)
    return model


@pytest.fixture(scope="module")
def asked():
    return {"learn_from": images(60, 2), "invert": images(24, 3), "suite": "smoke-v1", "progress": False}


@pytest.fixture
def briefly(asked, monkeypatch):
    """The same with one attack that takes no time."""
    monkeypatch.setitem(suites.SUITES, "brief", suites.specs("linear", "nearest"))
    return asked | {"suite": "brief"}


class Knows(nn.Module):
    """A judge that tells the class of clean stripes by the waves themselves."""

    def forward(self, x):
        waves = torch.stack([images(CLASSES, 9)[0][k] for k in range(CLASSES)])
        return -(x[:, None] - waves).square().flatten(2).mean(2)


@pytest.fixture(scope="module")
def card(asked):
    test = images(150, 4)
    return sv.privacy_card(
        made(0.1), against=made(0.001), test=test, judge=Knows(), bounds=("linkage", "mixture"), **asked
    )


def test_it_agrees_with_the_report_and_the_accuracy_of_the_same_model(card, asked):
    audit, model = card.found.audit, made(0.1)
    report = sv.evaluate(model, **asked)
    assert audit.best_attacker.mse.mean == pytest.approx(report.mse)
    assert audit.worst_case.mse.mean == pytest.approx(report.worst_case_mse)
    assert audit.accuracy.mean == sv.accuracy(model, images(150, 4)).mean
    assert (audit.attacker.images, audit.attacker.attacked) == (60, 24)
    assert audit.judge is not None
    assert audit.judge.recognized.mean > 0.9
    assert {one.bound for one in audit.bounds} == {"linkage", "mixture"}
    assert audit.reference is not None
    difference = audit.reference.accuracy_difference
    assert difference is not None
    assert difference.lo < difference.mean < difference.hi  # also where both models answer alike
    assert audit.reference.ratio.mean == pytest.approx(audit.best_attacker.mse.mean / audit.reference.mse.mean)
    assert audit.model.weights != audit.reference.weights
    assert (audit.reference.entropy_factor or 0) > 1  # the reference has less noise, and leaks more


def test_bounds_beside_an_attacker_who_sees_several_wires_say_that_they_are_of_one(briefly):
    card = sv.privacy_card(
        made(0.1), against=made(0.001), observed=3, bounds=("linkage", "mixture", "pairwise"), **briefly
    )
    audit = card.found.audit
    lower = [one for one in audit.bounds if one.kind == "lower"]
    assert {one.bound for one in lower} == {"linkage", "pairwise"}
    assert all(one.assumptions[-1] == bounded.ONE_WIRE for one in lower)
    assert audit.reference is not None
    assert audit.reference.entropy_factor is None  # Theorem 1 is about one wire


def test_the_folder_holds_the_record_and_the_page(card, tmp_path):
    page = card.save(tmp_path / "new" / "card")
    kept = AUDIT.validate_python(json.loads((page.parent / "audit.json").read_text()))
    assert kept.verdict == card.found.audit.verdict
    text = page.read_text()
    assert card.verdict in text
    assert "<script" not in text
    assert "None" not in text
    assert "srcdoc" in card._repr_html_()
    assert card.verdict in repr(card)


@pytest.mark.parametrize(
    ("image", "shown"),
    [([1, 12, 12], (128, 128)), ([1, 24, 32], (128, 96)), ([3, 32, 24], (96, 128)), ([3, 100, 200], (200, 100))],
)
def test_images_are_shown_in_their_proportions(card, image, shown):
    audit = card.found.audit
    found = replace(card.found, audit=replace(audit, model=replace(audit.model, image=image)))
    assert 'width="{}" height="{}" alt="Original'.format(*shown) in page(found)


def test_a_policy_is_judged(briefly, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("require:\n  accuracy: {at_least: 0.1}\n  mse: {at_least: 0.9}\n")
    card = sv.privacy_card(made(0.1), policy=policy, bounds=("linkage",), **briefly)
    assert card.found.audit.policy is not None
    assert [line.met for line in card.found.audit.policy.lines] == [True, False]
    assert card.met is False
    rules = {"require": {"accuracy": {"at_least": 0.1}, "mse": {"at_least": 0.9}}}
    for given in (rules, Policy.model_validate(rules)):
        judged = sv.privacy_card(made(0.1), policy=given, bounds=("linkage",), **briefly).found.audit.policy
        assert judged == replace(card.found.audit.policy, file="policy")
    with pytest.raises(UserError, match=r"policy: require\.beauty: no such setting"):
        sv.privacy_card(made(0.1), policy={"require": {"beauty": 1}}, **briefly)
    with pytest.raises(UserError, match="policy is 3; expected the path of a YAML file, or a dictionary"):
        sv.privacy_card(made(0.1), policy=3, **briefly)  # type: ignore[arg-type]
    policy.write_text("require: {beauty: 1}\n")
    with pytest.raises(UserError, match="beauty"):
        sv.privacy_card(made(0.1), policy=policy, **briefly)


def test_what_does_not_fit_is_refused_before_the_attacks(asked):
    model = made(0.1)
    with pytest.raises(UserError, match=r"the judge answers \(2, 7\) for 2 images; expected logits \(2, 3\)"):
        sv.privacy_card(model, judge=nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 7)), **asked)
    with pytest.raises(UserError, match="expected a SplitModel"):
        sv.privacy_card(model, against=nn.Flatten(), **asked)  # type: ignore[arg-type]
    wide = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(5))
    wide(images(1, 0)[0])
    other = sv.split(wide, at="0", example=images(1, 0)[0])
    with pytest.raises(UserError, match="against tells 5 classes, the model 3"):
        sv.privacy_card(model, against=other, **asked)
    with pytest.raises(UserError, match="expected a SplitModel"):
        sv.privacy_card(nn.Flatten(), **asked)  # type: ignore[arg-type]


def test_a_card_says_what_its_intervals_assume_and_how_the_attacked_images_were_chosen(card):
    drawn = replace(
        card.found,
        audit=replace(card.found.audit, attacker=replace(card.found.audit.attacker, protocol="inference_time")),
    )
    for found in (card.found, drawn):
        for text in (page(found), markdown(found.audit)):
            assert "Intervals take the attacked images for independent of each other" in text
            assert ("another number of training or test images, chooses others" in text) == (found is drawn)


def test_a_judge_keeps_its_modes_and_a_folder_in_the_way_is_one_line(card, asked, tmp_path):
    judge = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(SIDE * SIDE), nn.Linear(SIDE * SIDE, CLASSES)).train()
    judge[1].eval()
    _Case(CLASSES, *[None] * 3, judge, 0).recognized(torch.zeros(4, 1, SIDE, SIDE, dtype=torch.uint8), torch.arange(4))  # type: ignore[arg-type]
    assert [part.training for part in judge] == [True, False, True]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError):
        card.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_card_behind_a_codec_is_about_the_bytes_that_are_sent(briefly):
    model, train = made(0.1), images(90, 1)
    coded = sv.with_codec(model, "uint2", train=train)
    plain = sv.privacy_card(model, bounds=("mixture",), **briefly)
    card = sv.privacy_card(model, bounds=("mixture",), codec="uint2", train=train, **briefly)
    assert (plain.codec, card.codec) == ("none", "uint2")
    numbers = plain.found.audit.device.bytes // 4
    assert card.found.audit.device.bytes == numbers // 4
    assert card.found.audit.best_attacker.mse.mean == pytest.approx(sv.evaluate(coded, **briefly).mse)
    assert card.found.audit.accuracy == sv.accuracy(coded, briefly["invert"])
    assert card.found.audit.model.weights == digest_of(coded) != digest_of(model) == plain.found.audit.model.weights
    assert bounded.BEFORE in card.found.audit.bounds[0].assumptions
    sent = f"about the wire as a device sends it, by the codec uint2: {numbers // 4:,} bytes for each image"
    before = "about the wire before any codec: float32 numbers"
    for one, said in ((card, sent), (plain, before)):
        for text in (repr(one), one.html(), markdown(one.found.audit)):
            assert said in text
    assert "codec='uint2'" in card.found.audit.command
    assert "what the codec uint2 sends" in repr(card.report)
    assert codec_of(model.defense) is None  # the model stays as it is


def test_the_reference_of_a_coded_wire_is_sent_by_the_same_codec_and_the_card_says_so(briefly):
    model, plain, train = made(0.1), made(0.001), images(90, 1)
    more = {"bounds": ("linkage",), "train": train, **briefly}
    card = sv.privacy_card(model, against=plain, codec="uint2", **more)
    alone = sv.evaluate(sv.with_codec(plain, "uint2", train=train), **briefly)
    assert card.record()["reference"]["codec"] == "uint2"
    assert card.found.audit.reference is not None
    assert card.found.audit.reference.mse.mean == pytest.approx(alone.mse)
    said, row = (
        "The wire of the reference is sent by the same codec, uint2.",
        "error on the reference (wire sent by uint2)",
    )
    assert all(said in text for text in (repr(card), card.html(), markdown(card.found.audit)))
    assert all(row in text for text in (card.html(), markdown(card.found.audit)))
    eight = sv.with_codec(plain, "uint8", train=train)  # has a codec of its own
    for other, wire in ((eight, "is sent by the codec uint8"), (model, "is the one before any codec")):
        card = sv.privacy_card(model, against=other, codec="uint2", **more)
        assert f"The wire of the reference {wire}: a part of each difference between the two is what" in repr(card)
        assert card.record()["reference"]["weights"] == digest_of(other)
    sent = sv.with_codec(model, "uint2", train=train)  # the same, with a grid that was found beforehand
    card = sv.privacy_card(sent, against=model, codec="uint2", **more)
    assert card.record()["reference"]["weights"] == digest_of(model)
    assert codec_of(plain.defense) is None  # the reference stays as it is


@pytest.mark.parametrize("ask", [sv.privacy_card, sv.evaluate])
def test_a_codec_without_images_for_its_grid_is_refused(asked, ask):
    model, train = made(0.1), images(90, 1)
    with pytest.raises(UserError, match=r"codec 'uint8' needs the images on which its grid is found: train="):
        ask(model, codec="uint8", **asked)
    with pytest.raises(UserError, match="train says nothing without codec; leave it out, or name"):
        ask(model, train=train, **asked)
    with pytest.raises(UserError, match="codec 'zip'; expected one of: auto, uint8"):
        ask(model, codec="zip", train=train, **asked)
    with pytest.raises(UserError, match="the images of train have shape"):
        ask(model, codec="uint8", train=(train[0][..., 1:], train[1]), **asked)
    coded = sv.with_codec(model, "uint8", train=train)
    with pytest.raises(UserError, match="codec uint4, but the wire of the model is sent by uint8 already"):
        ask(coded, codec="uint4", train=train, **asked)
