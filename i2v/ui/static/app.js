// Ctrl+Enter or Cmd+Enter anywhere in the form starts a generation.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    document.querySelector("#generate")?.click();
  }
});
