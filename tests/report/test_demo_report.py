"""The demo page and the picture sheet: whole, self-contained, honest, escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from splitveil.errors import UserError
from splitveil.metrics import mse, psnr, ssim
from splitveil.pictures import image_grid_png
from splitveil.report import charts
from splitveil.report.demo import DemoModel, DemoResult, demo_page, headline, summary
from splitveil.statistics.intervals import Interval, binomial_ci, bootstrap_ci, paired_difference

VOID = {"meta", "img", "line", "circle", "polyline", "br"}


class Page(HTMLParser):
    """Checks that tags nest; collects attributes and text."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def digits_result() -> DemoResult:
    """Real digits; 'reconstructions' are blurred copies, the second model's blurred more."""
    from sklearn.datasets import load_digits

    rng = torch.Generator().manual_seed(0)
    pixels = torch.as_tensor(load_digits(return_X_y=True)[0]).float()[:60].view(-1, 1, 8, 8) / 16
    images = torch.nn.functional.interpolate(pixels, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    mean = images.mean(0, keepdim=True)
    models, errors = [], []
    for name, kept, accuracy, height in (
        ("Gaussian noise alone", 0.75, 345, 40.0),
        ("Gaussian + CEM", 0.4, 343, 22.0),
    ):
        blurred = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2)
        guess = (kept * blurred + (1 - kept) * mean + 0.02 * torch.randn(images.shape, generator=rng)).clamp(0, 1)
        errors.append(mse(images, guess))
        last = errors[-1].mean().item()
        models.append(
            DemoModel(
                name=name,
                attacker="decoder, the only attack",
                accuracy=binomial_ci(accuracy, 360),
                mse=bootstrap_ci(errors[-1], rng),
                ssim=bootstrap_ci(ssim(images, guess), rng),
                psnr=bootstrap_ci(psnr(images, guess), rng),
                leakage=[height * (0.5 + 1.1 * 0.7**epoch) for epoch in range(12)],
                accuracy_curve=[accuracy / 360 * (1 - 0.6 * 0.55**epoch) for epoch in range(12)],
                attack_curve=[last * (1 + 1.4 * 0.8**epoch) for epoch in range(20)],
                seconds=61.2,
                reconstructions=(guess[:10] * 255).round().byte().numpy(),
            )
        )
    return DemoResult(
        models=models,
        originals=(images[:10] * 255).round().byte().numpy(),
        baseline_mse=mse(images, mean.expand_as(images)).mean().item(),
        mse_difference=paired_difference(errors[1], errors[0], rng),
        accuracy_difference=Interval(-0.0056, -0.0194, 0.0083),
        settings={"data": "digits, 1,437 + 360 images of 32 × 32", "seed": "0", "torch": "2.14.1"},
        command="splitveil demo --out demo --seed 0",
    )


@pytest.fixture(scope="module")
def result() -> DemoResult:
    return digits_result()


def test_the_page_parses_and_refers_to_nothing_outside_itself(result):
    html = demo_page(result)
    page = Page(html)
    assert "http:" not in html
    assert "https:" not in html
    assert "<script" not in html
    references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "data", "srcset")]
    assert len(references) == 30
    assert all(value and value.startswith("data:image/png;base64,") for value in references)
    assert not re.search(r"url\(|@import", html)


def test_every_number_is_on_the_page(result):
    text = Page(demo_page(result)).text
    for model in result.models:
        for interval in (model.mse, model.ssim, model.psnr):
            value, bounds = str(interval).split(" ", 1)
            assert value in text
            assert bounds in text
        assert f"{100 * model.accuracy.mean:.1f} % [{100 * model.accuracy.lo:.1f}" in text
        numbers = [f"{value:.4g}" for value in (*model.leakage, *model.attack_curve)]
        numbers += [f"{100 * value:.1f} %" for value in model.accuracy_curve]
        assert [number for number in numbers if number not in text] == []
        assert f"{model.seconds:.1f}" in text
        assert model.name in text
    assert f"{result.baseline_mse:.4g}" in text
    assert "+" + str(result.mse_difference) in text
    assert "−0.6 [−1.9, 0.8] percentage points" in text
    for name, value in result.settings.items():
        assert name in text
        assert value in text
    assert result.command in text


def test_pictures_are_shown_pixel_by_pixel(result):
    import base64
    import io

    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', demo_page(result))
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(s)))).transpose(2, 0, 1) for s in sources]
    expected = [*result.originals, *result.models[0].reconstructions, *result.models[1].reconstructions]
    assert np.array_equal(np.stack(shown), np.stack(expected))


def test_names_and_settings_are_escaped(result):
    evil = '<script>alert("x")</script>&'
    models = [replace(model, name=evil) for model in result.models]
    page = demo_page(replace(result, models=models, settings={evil: evil}, command=evil))
    assert "<script" not in page
    assert Page(page).text.count(evil) >= 5


@pytest.mark.parametrize(
    ("mse_difference", "accuracy_difference", "title", "verdict"),
    [
        ((0.01, 0.008, 0.012), (-0.01, -0.02, 0.01), "attacker sees less", "; that it is kept is not shown. The"),
        ((0.01, 0.008, 0.012), (-0.03, -0.04, -0.02), "sees less with CEM, at a cost in accuracy", "rises from"),
        ((0.001, -0.001, 0.003), (0.0, -0.01, 0.01), "show no difference", "does not show an effect"),
        (
            (-0.01, -0.012, -0.008),
            (0.03, 0.02, 0.04),
            "made the attack easier, but accuracy is higher",
            "falls from",
        ),
        ((0.01, 0.008, 0.012), None, "attacker sees less", "[0.0080, 0.0120]. The intervals"),
    ],
)
def test_the_headline_says_what_was_measured(result, mse_difference, accuracy_difference, title, verdict):
    accuracy = Interval(*accuracy_difference) if accuracy_difference else None
    case = replace(result, mse_difference=Interval(*mse_difference), accuracy_difference=accuracy)
    assert title in headline(case)
    assert "two trainings" in headline(case).lower()
    assert verdict in summary(case)
    assert "another seed may give another difference" in summary(case)
    assert headline(case) in demo_page(case)


def test_a_page_without_curves_leaves_their_charts_out(result):
    models = [replace(model, leakage=[], attack_curve=[], accuracy_curve=[0.9]) for model in result.models]
    page = demo_page(replace(result, models=models))
    Page(page)
    assert page.count("<polyline") == 2


def test_bad_results_are_refused(result):
    with pytest.raises(UserError, match="got 1 models; expected two"):
        demo_page(replace(result, models=result.models[:1]))
    with pytest.raises(UserError, match=r"float64 \(2, 3, 8, 8\); expected uint8"):
        demo_page(replace(result, originals=np.zeros((2, 3, 8, 8))))
    with pytest.raises(UserError, match=r"\(10, 3, 32, 32\) reconstructions of \(9, 3, 32, 32\) originals"):
        demo_page(replace(result, originals=result.originals[:9]))


def test_line_chart_puts_extremes_at_the_margins():
    svg = charts.line_chart("x", [("a", [0.0, 1.0])])
    points = re.search(r'points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', svg)
    assert points is not None
    x0, y0, x1, y1 = map(float, points.groups())
    inside = charts.HEIGHT - charts.TOP - charts.BOTTOM
    assert (x0, x1) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert y0 - y1 == pytest.approx(inside / 1.16, abs=0.2)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.013, 0.0471), (-3, 250), (5, 5)])
def test_ticks_are_inside_even_and_few(low, high):
    marks = charts.ticks(low, high)
    assert all(low <= mark <= high for mark in marks)
    assert 1 <= len(marks) <= 9
    assert np.allclose(np.diff(marks, n=2), 0)


def test_image_grid_keeps_pixels_and_rows(tmp_path):
    rng = np.random.default_rng(0)
    originals, guesses = rng.integers(0, 256, (2, 4, 3, 32, 32), dtype=np.uint8)
    image_grid_png([("original", originals), ("decoder", torch.from_numpy(guesses))], tmp_path / "grid.png")
    sheet = np.asarray(Image.open(tmp_path / "grid.png")).transpose(2, 0, 1)
    step = 15 + 6 + 96 + 12
    for row, images in enumerate((originals, guesses)):
        for column, image in enumerate(images):
            top, left = 12 + row * step + 21, 12 + column * 102
            assert np.array_equal(sheet[:, top : top + 96 : 3, left : left + 96 : 3], image)
            assert np.array_equal(sheet[:, top + 2 : top + 96 : 3, left + 2 : left + 96 : 3], image)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "got no rows"),
        ([("a", np.zeros((2, 3, 8, 8)))], r"float64 \(2, 3, 8, 8\); expected uint8"),
        ([("a", np.zeros((2, 2, 8, 8), np.uint8))], r"expected uint8 \(K, 3 or 1, H, W\)"),
        (
            [("a", np.zeros((2, 3, 8, 8), np.uint8)), ("b", np.zeros((3, 3, 8, 8), np.uint8))],
            "expected one shape",
        ),
    ],
)
def test_bad_grids_are_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        image_grid_png(rows, tmp_path / "grid.png")
    assert list(tmp_path.iterdir()) == []
