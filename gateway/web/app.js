// What every page gets beside its text. Pages can be read without it.

/** Puts a button beside lines that are made to be copied. */
function offerCopying(block) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy by hand";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  block.append(button);
}

// Browsers give the clipboard to pages on https and on this machine only.
if (navigator.clipboard) document.querySelectorAll("[data-copy]").forEach(offerCopying);
