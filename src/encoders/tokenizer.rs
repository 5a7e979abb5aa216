//! CLIP's byte-pair encoding (openai/CLIP, `simple_tokenizer.py`).

use std::sync::LazyLock;

use regex::Regex;

use super::bpe::Bpe;
use super::mended::{mended, unescaped};
use super::mojibake::regex;

/// Tokens, start and end among them.
pub(super) const TOKENS: i64 = 49_408;
/// Start and end of a text, as a text may spell them.
const MARKS: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];
/// What CLIP cuts a text into, in lower case. Its expression ignores case: an apostrophe goes with a long s too, and U+0345, whose capital is a letter and
/// which is none, is neither a letter nor anything else and falls out.
static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"<\|startoftext\|>|<\|endoftext\|>|'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}\u{345}]+")
});

/// `text` as its words are looked for: mended, without entities (twice, as CLIP does it), in lower case.
fn cleaned(text: &str) -> String {
    unescaped(&unescaped(&mended(text))).to_lowercase()
}

/// Whether `text` has no word in it, nor any other sign.
#[must_use]
pub fn is_blank(text: &str) -> bool {
    !WORDS.is_match(&cleaned(text))
}

/// Texts to ids of tokens and back.
#[derive(Default)]
pub struct Tokenizer {
    bpe: Bpe,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        out.write_str("Tokenizer")
    }
}

impl Tokenizer {
    /// Ids of `text`, without start and end.
    #[must_use]
    pub fn ids(&self, text: &str) -> Vec<i64> {
        let word = |word: &str| match MARKS.iter().position(|mark| *mark == word) {
            Some(mark) => vec![self.bpe.len() + mark as u16],
            None => self.bpe.word(word),
        };
        WORDS.find_iter(&cleaned(text)).flat_map(|found| word(found.as_str())).map(i64::from).collect()
    }

    /// What a token stands for, of one that ends a word without the blank behind it; its number, where that is no text.
    #[must_use]
    pub fn text(&self, id: i64) -> String {
        let token = usize::try_from(id).ok().and_then(|id| self.bpe.token(id));
        let text = token.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let is_seen = |text: &String| !text.contains(|letter: char| letter.is_control() || letter.is_whitespace());
        text.filter(is_seen).unwrap_or_else(|| format!("#{id}"))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Line {
        kind: String,
        text: String,
        ids: Vec<i64>,
    }

    /// Of `tests/fixtures/make_tokens.py`: 10,000 texts by OpenAI's own tokenizer.
    #[test]
    fn texts_are_cut_as_openai_cuts_them() {
        let tokenizer = Tokenizer::default();
        let mut count = 0;
        for line in include_str!("../../tests/fixtures/tokens.jsonl").lines() {
            let Line { kind, text, ids } = serde_json::from_str(line).expect("a line");
            assert_eq!(tokenizer.ids(&text), ids, "{kind}: {text:?}");
            count += 1;
        }
        assert_eq!(count, 10_000);
    }

    #[test]
    fn blank_texts_have_no_tokens() {
        for text in ["", " \n", "&nbsp;", "&amp;nbsp;", "\0\u{1}", "\u{feff}", "\u{3000}"] {
            assert!(is_blank(text) && Tokenizer::default().ids(text).is_empty(), "{text:?}");
        }
        assert!(!is_blank(".") && !is_blank("&amp;"));
    }

    #[test]
    fn tokens_are_written_as_words() {
        let tokenizer = Tokenizer::default();
        let words: Vec<String> =
            tokenizer.ids("A dog on the BEACH!").into_iter().map(|id| tokenizer.text(id)).collect();
        assert_eq!(words, ["a", "dog", "on", "the", "beach", "!"]);
        assert_eq!(tokenizer.text(1 << 20), "#1048576");
    }
}
