/** The stored value, or undefined if there is none, it is broken, or local storage is disabled in the browser. */
export function load(key) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? undefined;
  } catch {
    return undefined;
  }
}

/** Store a value, or remove it if undefined. Returns whether that was possible. */
export function save(key, value) {
  try {
    if (value === undefined) localStorage.removeItem(key);
    else localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false; // local storage is full, or disabled in the browser
  }
}

/** The latest entries of a list: at most so many, with at most so many characters of JSON. */
export function latest(entries, maxEntries, maxCharacters) {
  let characters = 0;
  let start = entries.length;
  while (start > 0 && entries.length - start < maxEntries) {
    characters += JSON.stringify(entries[start - 1]).length;
    if (characters > maxCharacters) break;
    start -= 1;
  }
  return entries.slice(start);
}
