/** Terminal colours as classes: a tiny parser of SGR, so that what an agent printed never becomes markup. */

export interface Span {
  text: string;
  classes: string[];
}

interface Style {
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
  ink: string;
}

const PLAIN: Style = { bold: false, dim: false, italic: false, underline: false, ink: "" };
const INKS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
// Colours are understood; every other control sequence, and every other control character but tab, is left out.
const CONTROL = /\u001b\[([0-9;:]*)m|\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|\u001b[@-_]?|[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

/** Holds the colours that are in force, since they last over lines. */
export class Ansi {
  private style: Style = { ...PLAIN };

  spans(line: string): Span[] {
    const spans: Span[] = [];
    let from = 0;
    const put = (text: string) => {
      if (text) spans.push({ text, classes: this.classes() });
    };
    // A line that was written over keeps what was written last.
    const shown = line.replace(/\r+$/, "").split("\r").at(-1) ?? "";
    for (const found of shown.matchAll(CONTROL)) {
      put(shown.slice(from, found.index));
      from = found.index + found[0].length;
      if (found[1] !== undefined) this.apply(found[1].split(/[;:]/).map(Number));
    }
    put(shown.slice(from));
    return spans;
  }

  private classes(): string[] {
    const { bold, dim, italic, underline, ink } = this.style;
    return [bold && "bold", dim && "dim", italic && "italic", underline && "underline", ink && `ink-${ink}`].filter(
      (name): name is string => Boolean(name),
    );
  }

  private apply(codes: number[]): void {
    for (let index = 0; index < codes.length; index += 1) {
      const code = codes[index] ?? 0;
      if (code === 0) this.style = { ...PLAIN };
      else if (code === 1) this.style.bold = true;
      else if (code === 2) this.style.dim = true;
      else if (code === 3) this.style.italic = true;
      else if (code === 4) this.style.underline = true;
      else if (code === 22) this.style.bold = this.style.dim = false;
      else if (code === 23) this.style.italic = false;
      else if (code === 24) this.style.underline = false;
      else if (code === 39) this.style.ink = "";
      else if (code >= 30 && code <= 37) this.style.ink = INKS[code - 30] ?? "";
      else if (code >= 90 && code <= 97) this.style.ink = INKS[code - 90] ?? "";
      else if (code === 38 || code === 48) index += codes[index + 1] === 5 ? 2 : 4; // Exact shades are not kept.
    }
  }
}
