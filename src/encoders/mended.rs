//! Texts as CLIP's tokenizer has them mended before it cuts them up: what ftfy's `fix_text` does to entities, mojibake, ligatures, widths, quotation marks
//! and characters that are not seen.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use unicode_normalization::UnicodeNormalization;

use super::charmap::uncontrolled;
use super::mojibake::{regex, reread};

/// Rounds after which a text is left as it is.
const ROUNDS: usize = 256;

/// An entity that is written out whole.
static ENTITY: LazyLock<Regex> = LazyLock::new(|| regex(r"&#?[0-9A-Za-z]{1,24};"));
/// What Python's html module takes for one.
static REFERENCE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\x0c <&#;]{1,32};?)"));
static TERMINAL: LazyLock<Regex> = LazyLock::new(|| regex(r"\x1b\[[\p{Nd};]*[a-zA-Z]"));

/// `text`, mended line by line, and composed (NFC).
pub(super) fn mended(text: &str) -> String {
    // From a line with a < on, it may be HTML that means what it says.
    let mut is_html = false;
    let line = |line: &str| {
        is_html |= line.contains('<');
        mended_line(line, !is_html)
    };
    text.split_inclusive('\n').map(line).collect()
}

fn mended_line(line: &str, has_entities: bool) -> String {
    if line.bytes().all(|byte| byte == b'\n' || (b' '..0x7f).contains(&byte) && byte != b'&') {
        return line.to_owned();
    }
    let mut text = line.to_owned();
    for _ in 0..ROUNDS {
        let next = once(&text, has_entities);
        if next == text {
            break;
        }
        text = next;
    }
    text
}

fn once(text: &str, has_entities: bool) -> String {
    let text =
        if has_entities { ENTITY.replace_all(text, |entity: &Captures| whole_entity(&entity[0])) } else { text.into() };
    let text = reread(&text);
    let text: String = text.chars().map(replaced).collect();
    let text = TERMINAL.replace_all(&text, "");
    text.chars().filter(|letter| !is_hidden(*letter)).nfc().collect()
}

/// What `entity` stands for, if it is known with all its letters, also in capitals; else itself.
fn whole_entity(entity: &str) -> String {
    let known = |entity: &str| {
        let text = unescaped(entity);
        (text == ";" || !text.contains(';')).then_some(text)
    };
    let in_capitals = || {
        let is_unknown = unescaped(entity) == entity && entity.bytes().all(|byte| !byte.is_ascii_lowercase());
        known(&entity.to_lowercase()).filter(|_| is_unknown).map(|text| text.to_uppercase())
    };
    known(entity).or_else(in_capitals).unwrap_or_else(|| entity.to_owned())
}

/// `text` with what its entities stand for, as Python's `html.unescape` has it: a number of no character stands for nothing.
pub(super) fn unescaped(text: &str) -> String {
    let one = |reference: &Captures| {
        let reference = &reference[0];
        let Some(number) = reference.strip_prefix("&#") else { return htmlize::unescape(reference).into_owned() };
        let digits = number.trim_end_matches(';');
        let value = match digits.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        match value.unwrap_or(u32::MAX) {
            0 => "\u{fffd}".to_owned(),
            0x0d => "\r".to_owned(),
            0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => String::new(),
            code if code <= 0x10_ffff && code & 0xfffe == 0xfffe => String::new(),
            code => char::from_u32(code).map_or('\u{fffd}', uncontrolled).to_string(),
        }
    };
    REFERENCE.replace_all(text, one).into_owned()
}

/// What stands for a character that can be seen.
fn replaced(letter: char) -> String {
    let text = match uncontrolled(letter) {
        'ﬅ' => "ſt",
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => "'",
        '\u{201c}'..='\u{201f}' => "\"",
        '\u{2028}' | '\u{2029}' | '\r' => "\n",
        '\u{3000}' | '\u{fb00}'..='\u{fb06}' | '\u{ff01}'..='\u{ffef}' => return letter.nfkc().collect(),
        letter => return letter.to_string(),
    };
    text.to_owned()
}

/// Whether nobody sees it, and nothing on the screen is changed by it.
fn is_hidden(letter: char) -> bool {
    matches!(
        letter,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}'
    )
}
