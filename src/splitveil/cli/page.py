"""`splitveil page`."""

from __future__ import annotations

from ._shared import MaybePlace, Place, app, say, show_flags


@app.command
def page(bundle: Place, *, runtime: Place, out: Place, examples: MaybePlace = None) -> None:
    """Write one HTML file in which the device's half of a bundle runs in a browser, and which shows what leaves.

    Opened as a file it works offline, without an answer; `splitveil serve BUNDLE --demo --runtime DIR` answers too.

    Args:
        bundle: Folder that `splitveil export` made.
        runtime: Folder dist of the npm package onnxruntime-web 1.30.0, which `npm pack onnxruntime-web@1.30.0` fetches.
        out: The HTML file; it is replaced.
        examples: Folder of pictures that the page offers: at most 12 files of at most 200,000 bytes.
    """
    from ..deploy import page as making

    name, size = making.write(bundle, runtime, out, examples)
    say(f"page of {name}: {out} ({size:,} bytes)")
    if size > making.LARGE:
        show_flags(
            [f"the page has {size:,} bytes, more than {making.LARGE:,}: it is slow to load over a mobile network"]
        )
