// Emphasis beside Chinese, Japanese and Korean text. CommonMark tells opening from closing stars by the spaces around
// them, which these scripts do not write: in **「詞」**是 the last stars stand between a bracket and a letter, and
// would stay stars.

const CJK =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Bopomofo}\u3000-\u303f\uff00-\uffef]/u;

/** A markdown-it plugin. */
export function cjkEmphasis(md) {
  const Base = md.inline.State;
  md.inline.State = class extends Base {
    scanDelims(start, canSplitWord) {
      const found = super.scanDelims(start, canSplitWord);
      const before = [...this.src.slice(Math.max(0, start - 2), start)].at(-1);
      const after = [...this.src.slice(start + found.length, start + found.length + 2)][0];
      if (!canSplitWord || isSpace(before) || isSpace(after)) return found;
      return {
        ...found,
        can_open: found.can_open || CJK.test(before),
        can_close: found.can_close || CJK.test(after),
      };
    }
  };
}

function isSpace(character) {
  return character === undefined || /\s/u.test(character);
}
