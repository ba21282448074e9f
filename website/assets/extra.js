// Whoever has no mouse must reach what scrolls: code and tables that are wider than the page take the keyboard's focus.
function reachable() {
  for (const one of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap")) {
    if (one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight) one.tabIndex = 0;
    else one.removeAttribute("tabindex");
  }
}
addEventListener("load", () => setTimeout(reachable));
addEventListener("resize", reachable);
