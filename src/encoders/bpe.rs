//! Byte-pair encoding with CLIP's own merges (openai/CLIP, `simple_tokenizer.py`).

use std::collections::HashMap;

/// OpenAI's merges in their order, the best first; a token that ends a word is written with `</w>` behind it.
const MERGES: &str = include_str!("../../assets/clip/merges.txt");
/// What a token that ends a word is written with.
const END: &str = "</w>";
/// From the token of a byte within a word to that of the same byte at its end.
const TO_END: u16 = 256;

/// Words to tokens and back.
pub(super) struct Bpe {
    /// The token that a pair of tokens becomes; of two pairs, the one with the lower token is merged first.
    merges: HashMap<(u16, u16), u16>,
    /// What each token stands for.
    tokens: Vec<Vec<u8>>,
    /// Tokens of the bytes, within a word.
    bytes: [u16; 256],
}

impl Default for Bpe {
    fn default() -> Self {
        let letters = letters();
        let mut bytes = [0; 256];
        let mut tokens: Vec<Vec<u8>> = Vec::new();
        let mut ids: HashMap<String, u16> = HashMap::new();
        for end in ["", END] {
            for (letter, byte) in &letters {
                let id = tokens.len() as u16;
                if end.is_empty() {
                    bytes[usize::from(*byte)] = id;
                }
                ids.insert(format!("{letter}{end}"), id);
                tokens.push(vec![*byte]);
            }
        }
        let mut merges = HashMap::new();
        for pair in MERGES.lines() {
            let id = tokens.len() as u16;
            let Some((first, second)) = pair.split_once(' ') else { continue };
            let (left, right) = (ids[first], ids[second]);
            merges.insert((left, right), id);
            ids.insert(format!("{first}{second}"), id);
            tokens.push([&*tokens[usize::from(left)], &*tokens[usize::from(right)]].concat());
        }
        Self { merges, tokens, bytes }
    }
}

impl Bpe {
    /// How many tokens there are, without start and end of a text.
    pub(super) fn len(&self) -> u16 {
        self.tokens.len() as u16
    }

    /// Bytes that the token `id` stands for.
    pub(super) fn token(&self, id: usize) -> Option<&[u8]> {
        self.tokens.get(id).map(Vec::as_slice)
    }

    /// Tokens of one word.
    pub(super) fn word(&self, word: &str) -> Vec<u16> {
        let mut tokens: Vec<u16> = word.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        if let Some(last) = tokens.last_mut() {
            *last += TO_END;
        }
        loop {
            let merged = tokens.windows(2).filter_map(|pair| self.merges.get(&(pair[0], pair[1])));
            let Some(&best) = merged.min() else { return tokens };
            let mut next = Vec::with_capacity(tokens.len());
            let mut rest = &*tokens;
            while let [first, after @ ..] = rest {
                match after {
                    [second, after @ ..] if self.merges.get(&(*first, *second)) == Some(&best) => {
                        next.push(best);
                        rest = after;
                    }
                    _ => {
                        next.push(*first);
                        rest = after;
                    }
                }
            }
            tokens = next;
        }
    }
}

/// The letters that the merges have for the 256 bytes, in the order of their tokens: those that can be seen in Latin-1 as themselves, then the others from U+0100
/// on.
fn letters() -> Vec<(char, u8)> {
    let is_seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let seen = (0..=255).filter(is_seen).map(|byte| (char::from(byte), byte));
    let others = (0..=255).filter(|byte| !is_seen(byte)).zip('\u{100}'..).map(|(byte, letter)| (letter, byte));
    seen.chain(others).collect()
}
