// Search in the built site, from a disk as well as from a server: the index is a script, loaded at the first use.
(() => {
  const form = document.querySelector("form.search");
  const field = form.querySelector("input");
  const status = form.querySelector("[role=status]");
  const list = form.querySelector("ol");
  const MOST = 20, AROUND = 70;
  let loading = null;

  const index = () => {
    loading ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = "search-index.js";
      script.onload = () => resolve(window.bookIndex.map((one) => ({ ...one, low: one.text.toLowerCase(),
        name: `${one.page} ${one.section}`.toLowerCase() })));
      script.onerror = () => reject(new Error("search-index.js is missing"));
      document.head.append(script);
    });
    return loading;
  };

  // Every word must occur; words in titles count most, then how often they occur.
  const score = (one, words) => {
    let total = 0;
    for (const word of words) {
      const named = one.name.includes(word), times = one.low.split(word).length - 1;
      if (!named && !times) return 0;
      total += (named ? 20 : 0) + Math.min(times, 10);
    }
    return total;
  };

  const excerpt = (one, words) => {
    const part = document.createElement("span");
    const at = Math.max(0, Math.min(...words.map((word) => one.low.indexOf(word)).filter((place) => place >= 0)));
    if (!Number.isFinite(at)) return part;
    const word = words.find((each) => one.low.startsWith(each, at)) ?? "";
    const start = Math.max(0, at - AROUND), mark = document.createElement("mark");
    mark.textContent = one.text.slice(at, at + word.length);
    part.append((start ? "\u2026" : "") + one.text.slice(start, at), mark,
      one.text.slice(at + word.length, at + word.length + AROUND) + "\u2026");
    return part;
  };

  const show = async () => {
    const asked = field.value;
    const words = asked.toLowerCase().split(/\s+/).filter((word) => word.length > 1);
    if (!words.length) {
      status.textContent = "";
      list.replaceChildren();
      return;
    }
    const all = await index();
    if (field.value !== asked) return; // somebody typed on, or gave up, while the index was loading
    const found = all.map((one) => [score(one, words), one]).filter(([points]) => points).sort((a, b) => b[0] - a[0]);
    status.textContent = found.length === 1 ? "1 section" : `${found.length} sections`;
    list.replaceChildren(...found.slice(0, MOST).map(([, one]) => {
      const item = document.createElement("li"), link = document.createElement("a");
      link.href = one.url;
      link.textContent = one.section === one.page ? one.page : `${one.page}: ${one.section}`;
      item.append(link, excerpt(one, words));
      return item;
    }));
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    list.querySelector("a")?.click();
  });
  list.addEventListener("click", (event) => {
    if (event.target.closest("a")) list.replaceChildren();
  });
  field.addEventListener("input", show);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, textarea")) {
      event.preventDefault();
      field.focus();
    } else if (event.key === "Escape") {
      field.value = "";
      show();
    }
  });
  const asked = new URLSearchParams(location.search).get("q");
  if (asked) {
    field.value = asked;
    show();
  }
})();
