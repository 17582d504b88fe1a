// Text files that go with a question.

const MOST_BYTES = 2 * 2 ** 20;

/** A file that cannot be attached; `reason` is a word of the language table. */
export class FileError extends Error {
  constructor(name, reason) {
    super(`${name}: ${reason}`);
    this.name = name;
    this.reason = reason;
  }
}

/**
 * Read a file as text: UTF-8, UTF-16 with its mark, or Big5.
 * @param {File} file
 * @throws {FileError} it is too large, or no text
 */
export async function readTextFile(file) {
  if (file.size > MOST_BYTES) throw new FileError(file.name, "fileTooLarge");
  const bytes = new Uint8Array(await file.arrayBuffer());
  return { name: file.name, size: file.size, text: decode(bytes, file.name) };
}

function decode(bytes, name) {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return new TextDecoder("utf-16be").decode(bytes);
  if (bytes.includes(0)) throw new FileError(name, "fileNotText");
  for (const encoding of ["utf-8", "big5"]) {
    try {
      return new TextDecoder(encoding, { fatal: true }).decode(bytes);
    } catch {
      // Not this one.
    }
  }
  throw new FileError(name, "fileNotText");
}

/** The question with its files, in the form that DeepSeek's model cards give. */
export function withFiles(question, files) {
  if (!files?.length) return question;
  const parts = files.map(
    (file) => `[file name]: ${file.name}\n[file content begin]\n${file.text}\n[file content end]\n`,
  );
  return parts.join("") + question;
}

/** A size for people. */
export function sizeText(bytes) {
  return bytes < 1000 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
