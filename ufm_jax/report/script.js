// Moves the titles into a tooltip that shows at once, and opens what is collapsed for printing.
const tip = document.createElement("div");
tip.id = "tooltip"; tip.hidden = true; document.body.append(tip);
for (const group of document.querySelectorAll(".hover, .tip")) {
  const title = group.querySelector("title"), text = title.textContent;
  group.addEventListener("pointerenter", () => { title.textContent = ""; tip.textContent = text; });
  group.addEventListener("pointermove", (event) => {
    tip.hidden = false;
    const left = event.clientX + 14, room = innerWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(4, Math.min(left, room)) + "px";
    tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 10) + "px";
  });
  group.addEventListener("pointerleave", () => { title.textContent = text; tip.hidden = true; });
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
