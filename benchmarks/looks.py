"""How pages are looked at in a browser: sizes of the window, and the faults that axe-core finds."""

from __future__ import annotations

from typing import Any

from chromium import Browser

SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
SERIOUS = ("serious", "critical")


def opened(browser: Browser, where: str) -> None:
    """Open a page and wait until it is drawn."""
    browser.run("window.splitveil = null")
    browser.requests.clear()
    browser.console.clear()
    browser.loaded = False
    browser.call("Page.navigate", url=where)
    browser.until("document.readyState === 'complete' && location.href !== 'about:blank'")


def checked(browser: Browser, axe: str) -> list[dict[str, Any]]:
    """Violations that axe-core finds on the open page."""
    browser.run(axe + "; true")
    found = browser.run("axe.run(document, {resultTypes: ['violations']}).then(found => found.violations)")
    keep = ("id", "impact")
    return [
        {key: one[key] for key in keep} | {"where": [node["html"][:160] for node in one["nodes"][:3]]} for one in found
    ]
