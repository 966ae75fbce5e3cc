/** The package has types, but its `exports` hide them. */
declare module "tinykeys" {
  export function tinykeys(target: Window | HTMLElement, bindings: Record<string, (event: KeyboardEvent) => void>): () => void;
}
