//! Texts as CLIP's tokenizer has them mended before it cuts them up: what ftfy's `fix_text` does to entities, mojibake, ligatures, widths, quotation marks
//! and characters that are not seen.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use unicode_normalization::UnicodeNormalization;

/// Rounds after which a text is left as it is.
const ROUNDS: usize = 16;

/// An entity that is written out whole.
static ENTITY: LazyLock<Regex> = LazyLock::new(|| regex(r"&#?[0-9A-Za-z]{1,24};"));
/// What Python's html module takes for one.
static REFERENCE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\x0c <&#;]{1,32};?)"));
/// Two to four characters that may be bytes of UTF-8, read as windows-1252 or latin-1.
static BYTES: LazyLock<Regex> =
    LazyLock::new(|| regex(&format!("[\u{c2}-\u{f4}][\u{80}-\u{bf}{WINDOWS_TEXT}]{{1,3}}")));
static TERMINAL: LazyLock<Regex> = LazyLock::new(|| regex("\u{1b}\\[[0-9;]*[a-zA-Z]"));

/// What windows-1252 has at 0x80 to 0x9F; at five of them nothing.
const WINDOWS: [u16; 32] = [
    0x20ac, 0x81, 0x201a, 0x192, 0x201e, 0x2026, 0x2020, 0x2021, 0x2c6, 0x2030, 0x160, 0x2039, 0x152, 0x8d, 0x17d,
    0x8f, 0x90, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x2dc, 0x2122, 0x161, 0x203a, 0x153, 0x9d,
    0x17e, 0x178,
];

/// The same as characters, for an expression.
const WINDOWS_TEXT: &str = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ";

fn regex(expression: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "the expressions are fixed")]
    Regex::new(expression).expect("a regular expression")
}

/// `text`, mended, and composed (NFC).
pub(super) fn mended(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..ROUNDS {
        let next = once(&text);
        if next == text {
            break;
        }
        text = next;
    }
    text
}

fn once(text: &str) -> String {
    if text.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b'&') {
        return text.to_owned();
    }
    // Where there is a <, it may be HTML that means what it says.
    let text = if text.contains('<') {
        text.to_owned()
    } else {
        ENTITY.replace_all(text, |entity: &Captures| whole_entity(&entity[0])).into_owned()
    };
    let text = reread(&text)
        .unwrap_or_else(|| BYTES.replace_all(&text, |bytes: &Captures| reread_start(&bytes[0])).into_owned());
    let text = TERMINAL.replace_all(&text, "");
    text.chars().flat_map(|c| replaced(c).chars().collect::<Vec<_>>()).nfc().collect()
}

/// What `entity` stands for, if it is known with all its letters, also in capitals; else itself.
fn whole_entity(entity: &str) -> String {
    let known = |entity: &str| {
        let text = unescaped(entity);
        (text == ";" || !text.contains(';')).then_some(text)
    };
    let in_capitals = || {
        let is_upper = entity.bytes().all(|byte| !byte.is_ascii_lowercase());
        known(&entity.to_lowercase()).filter(|_| is_upper).map(|text| text.to_uppercase())
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
            code @ 0x80..=0x9f => windows(code as u8).to_string(),
            0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => String::new(),
            code if code <= 0x10_ffff && code & 0xfffe == 0xfffe => String::new(),
            code => char::from_u32(code).unwrap_or('\u{fffd}').to_string(),
        }
    };
    REFERENCE.replace_all(text, one).into_owned()
}

/// What windows-1252 has at `byte`, 0x80 to 0x9f.
fn windows(byte: u8) -> char {
    char::from_u32(u32::from(WINDOWS[usize::from(byte) - 0x80])).unwrap_or('\u{fffd}')
}

/// As many characters from the first on as are one character of UTF-8, read as that.
fn reread_start(text: &str) -> String {
    let mut ends = text.char_indices().map(|(at, _)| at).skip(2).chain([text.len()]);
    let read = |end: usize| reread(&text[..end]).map(|read| read + &text[end..]);
    ends.find_map(read).unwrap_or_else(|| text.to_owned())
}

/// A text whose UTF-8 was read as windows-1252 or latin-1, read as UTF-8.
fn reread(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let byte = |c: char| match u32::from(c) {
        code @ 0..=0xff => Some(code as u8),
        code => WINDOWS.iter().position(|windows| u32::from(*windows) == code).map(|place| 0x80 + place as u8),
    };
    let bytes: Vec<u8> = text.chars().map(byte).collect::<Option<_>>()?;
    String::from_utf8(bytes).ok()
}

/// What stands for a character.
fn replaced(c: char) -> String {
    let text = match c {
        '\u{80}'..='\u{9f}' => return windows(c as u8).to_string(),
        'ﬅ' => "ſt",
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "ʼn",
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
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' => "",
        '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => "",
        '\u{3000}' | '\u{fb00}'..='\u{fb06}' | '\u{ff01}'..='\u{ffef}' => return c.nfkc().collect(),
        c => return c.to_string(),
    };
    text.to_owned()
}
