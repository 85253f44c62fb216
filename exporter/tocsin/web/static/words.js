// The search, where the page has all that is searched.

// Returns whether each word of a search is somewhere in some texts, or in texts inside of them.
export function words(search = "") {
  const wanted = search.toLowerCase().split(/\s+/).filter(Boolean);
  return (...texts) => {
    if (!wanted.length) return true;
    const all = JSON.stringify(texts).toLowerCase();
    return wanted.every((word) => all.includes(JSON.stringify(word).slice(1, -1)));
  };
}
