/** What kind of file can be looked at on the page: pictures as such, texts as text; the rest is downloaded. */
export function kindOf(mediaType: string): "picture" | "json" | "text" | null {
  if (mediaType.startsWith("image/")) return "picture";
  if (/[/+]json$/.test(mediaType)) return "json";
  if (mediaType.startsWith("text/") || /^application\/(x-)?(yaml|toml|javascript|xml|x-sh|sql|ndjson|jsonl)$/.test(mediaType)) return "text";
  return null;
}

export function canShow(file: { media_type: string; name: string }): boolean {
  return shownAs(file) !== null;
}

const TEXT_NAMES = /\.(txt|md|log|py|ts|js|css|html?|csv|tsv|ya?ml|toml|ini|xml|sh|sql|diff|patch|jsonl)$/i;

/** By its kind, or, of bytes that nobody gave a kind, by its name. */
export function shownAs({ media_type, name }: { media_type: string; name: string }): "picture" | "json" | "text" | null {
  const kind = kindOf(media_type);
  if (kind !== null || media_type !== "application/octet-stream") return kind;
  return /\.json$/i.test(name) ? "json" : TEXT_NAMES.test(name) ? "text" : null;
}
