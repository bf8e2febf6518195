const box = document.getElementById("search");
const cards = [...document.querySelectorAll(".card")];
const shown = document.getElementById("shown");
if (box) {
  box.closest(".search").hidden = false;
  const texts = cards.map((card) => card.textContent.toLowerCase());
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    cards.forEach((card, index) => {
      const hit = words.every((word) => texts[index].includes(word));
      card.hidden = !hit;
      count += hit;
    });
    document.querySelectorAll(".part").forEach((part) => {
      part.hidden = !part.querySelector(".card:not([hidden])");
    });
    shown.textContent = words.length ? `${count} of ${cards.length}` : "";
  });
}
