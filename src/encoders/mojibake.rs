//! Mojibake: a text in UTF-8 that was read in another encoding. Which texts look like it and what they were is decided as ftfy 6.3 decides it (Robyn Speer,
//! Apache-2.0: its `badness.py`, `chardata.py` and `fix_encoding`), so that CLIP's tokenizer gets what it was trained on.

use std::sync::LazyLock;

use regex::{Regex, bytes};

use super::charmap::{CHAR_MAPS, CharMap, uncontrolled};

/// Letters and signs that come up in mojibake, by what they say of it.
const COMMON: &str = "\u{a0}\u{ad}·´–—―…’";
const NBSP: char = '\u{a0}';
const C1: &str = "\u{80}-\u{9f}";
const BAD: &str = "¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}ªº";
const LAW: &str = "¶§";
const CURRENCY: &str = "¢£¥₧€";
const START: &str = "¡«¿©΄΅‘‚“„•‹\u{f8ff}";
const STOP: &str = "®»˝”›™";
const NUMERIC: &str = "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№";
const FACES: &str = "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°";
const UPPER: &str = "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ";
const LOWER: &str = "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґ\u{fb01}\u{fb02}";
const UPPER_COMMON: &str = "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я";
const LOWER_COMMON: &str = "α-ωάέήίΰа-џ";
const BOX: &str = "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓";

/// Where a text is hardly meant as it stands.
static BADNESS: LazyLock<Regex> = LazyLock::new(|| {
    let around_bad = format!("{LOWER}{UPPER}{BOX}{START}{STOP}{CURRENCY}{NUMERIC}{LAW}");
    let arabic = format!("[ØÙ][{COMMON}{CURRENCY}{BAD}{NUMERIC}{START}ŸŠ®°µ»]");
    let sequences = [
        format!("[{C1}]"),
        format!("[{BAD}{around_bad}][{BAD}]"),
        format!("[a-zA-Z][{LOWER_COMMON}{UPPER_COMMON}][{BAD}]"),
        format!("[{BAD}][{around_bad}]"),
        format!("[{LOWER}{LOWER_COMMON}{BOX}{STOP}{CURRENCY}{NUMERIC}][{UPPER}]"),
        format!("[{BOX}{STOP}{CURRENCY}{NUMERIC}][{LOWER}]"),
        format!("[{LOWER}{BOX}{STOP}][{CURRENCY}]"),
        format!(r"[\s\x1c-\x1f][{UPPER}][{CURRENCY}]"),
        format!("[{UPPER}{BOX}][{NUMERIC}{LAW}]"),
        format!("[{LOWER}{UPPER}{BOX}{CURRENCY}{STOP}][{START}][{NUMERIC}]"),
        format!("[{LOWER}{UPPER}{CURRENCY}{NUMERIC}{BOX}{LAW}][{STOP}][{START}]"),
        format!("[{CURRENCY}{NUMERIC}{BOX}][{START}]"),
        format!("[a-z][{UPPER}][{START}{CURRENCY}]"),
        format!("[{BOX}][{FACES}]"),
        format!("[{LOWER}{UPPER}{CURRENCY}{NUMERIC}{START}{STOP}{LAW}][{BOX}]"),
        format!("[{BOX}][{STOP}]"),
        format!(r"[{LOWER}{UPPER}][{START}{STOP}][\p{{L}}\p{{N}}_]"),
        "[Œœ][^A-Za-z]".to_owned(),
        format!("[{UPPER}]°"),
        // Two letters of windows-1252.
        format!("[ÂÃÎÐ][€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»{START}{STOP}–—´]"),
        "×[²³]".to_owned(),
        // Arabic in windows-1252, four of them, as its signs are common.
        format!("{arabic}{arabic}"),
        // Scripts of South Asia in windows-1252.
        "à[²µ¹¼½¾]".to_owned(),
        // Macintosh.
        "√[±∂†≠®™´≤≥¥µø]|≈[°¢]|‚Ä[ìîïòôúùû†°¢π]|‚[âó][àä°ê]".to_owned(),
        // U+2000 to U+20FF, Latin and Cyrillic in windows-1251.
        format!("вЂ|[ВГРС][{C1}{BAD}{START}{STOP}{CURRENCY}°µ][ВГРС]|ГўВЂВ.[A-Za-z ]"),
        // à, á and a blank that does not break, in windows-1252.
        format!(r"Ã[{NBSP}¡]|[a-z][\s\x1c-\x1f]?[ÃÂ][ ]|^[ÃÂ][ ]|[a-z.,?!{STOP}]Â[ {START}{STOP}]"),
        // U+2000 to U+20FF, Latin and Greek in windows-1253; U+2000 to U+20FF in windows-1257.
        format!("β€[™{NBSP}Ά\u{ad}®°]|[ΒΓΞΟ][{C1}{BAD}{START}{STOP}{CURRENCY}°][ΒΓΞΟ]|ā€"),
    ];
    regex(&sequences.join("|"))
});

/// What a character of UTF-8 looks like in one of the maps: its first byte, by how many there are, and the others.
const FIRST_OF_2: &str = "ĂÂÄĀÅÃÆĆČÇĎĐÉĚÊËĖÈĒĘÐĞĢÍÎÏİÌĪĶĹĻŁŃŇŅÑÓÔÖŐÒŌØÕŘŚŠŞŢÞÚÛÜŰÙŪŲŮÝŹŽŻß×ΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩΪΫάέήίВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ";
const FIRST_OF_3: &str = "áăâäàāąåãæćčçďéěêëėèēęģíîïìīįķĺļŕźΰαβγδεζηθικλμνξοабвгдежзийклмноп";
const FIRST_OF_4: &str = "đðğóšπσру";
/// Those that are not common by themselves.
const OTHERS: &str = "\u{80}-¿ĄÆĽŁØŖŚŠŞŤŸŹŽŻŒąæƒľłøŗśšşťźžżœˆˇ˘˛˜˝΄΅ΆΈΉΊΌΎΏЁЂЃЄЅІЇЈЉЊЋЌЎЏёђѓєѕіїјљњћќўџҐґ†‡‰‹›€№™";
const COMMON_OTHERS: &str = " –—―‘’‚“”„•…";

static UTF_8: LazyLock<Regex> = LazyLock::new(|| {
    let other = format!("[{OTHERS}{COMMON_OTHERS}]");
    regex(&format!("(?:[{FIRST_OF_2}]{other}|[{FIRST_OF_3}]{other}{{2}}|[{FIRST_OF_4}]{other}{{3}})+"))
});
static OTHER: LazyLock<Regex> = LazyLock::new(|| regex(&format!("^[{OTHERS}]$")));

/// à as a word of its own, whose second byte became a blank.
static A_GRAVE: LazyLock<bytes::Regex> =
    LazyLock::new(|| of_bytes(r"\xc3 \x20 (?: \x20 | quele | quela | quilo | s\x20 )?"));
/// UTF-8 with a blank instead of 0xA0.
static BLANKS: LazyLock<bytes::Regex> = LazyLock::new(|| {
    of_bytes(
        r"[\xc2\xc3\xc5\xce\xd0\xd9] \x20
        | [\xe2\xe3] \x20 [\x80-\x84\x86-\x9f\xa1-\xbf]
        | [\xe0-\xe3] [\x80-\x84\x86-\x9f\xa1-\xbf] \x20
        | \xf0 (?: \x20 [\x80-\xbf]{2} | [\x80-\xbf] \x20 [\x80-\xbf] | [\x80-\xbf]{2} \x20 )",
    )
});
/// UTF-8 and CESU-8 of which bytes were lost, or became a question mark.
static LOSSES: LazyLock<bytes::Regex> = LazyLock::new(|| {
    of_bytes(
        r"[\xc2-\xdf] \x1a
        | [\xc2-\xc3] \?
        | \xed [\xa0-\xaf] [\x1a?] \xed [\xb0-\xbf] [\x1a?\x80-\xbf]
        | \xed [\xa0-\xaf] [\x1a?\x80-\xbf] \xed [\xb0-\xbf] [\x1a?]
        | [\xe0-\xef] [\x1a?] [\x1a\x80-\xbf]
        | [\xe0-\xef] [\x1a\x80-\xbf] [\x1a?]
        | [\xf0-\xf4] [\x1a?] [\x1a\x80-\xbf]{2}
        | [\xf0-\xf4] [\x1a\x80-\xbf] [\x1a?] [\x1a\x80-\xbf]
        | [\xf0-\xf4] [\x1a\x80-\xbf]{2} [\x1a?]
        | \x1a",
    )
});

pub(super) fn regex(expression: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "the expressions are fixed")]
    Regex::new(expression).expect("a regular expression")
}

fn of_bytes(expression: &str) -> bytes::Regex {
    #[expect(clippy::expect_used, reason = "the expressions are fixed")]
    bytes::Regex::new(&format!("(?sx-u){expression}")).expect("a regular expression")
}

/// `text`, read as it was meant, if it looks like mojibake.
pub(super) fn reread(text: &str) -> String {
    let mut text = text.to_owned();
    loop {
        let next = reread_once(&text);
        if next == text {
            return text;
        }
        text = next;
    }
}

fn is_bad(text: &str) -> bool {
    !text.is_ascii() && BADNESS.is_match(text)
}

fn reread_once(text: &str) -> String {
    if !is_bad(text) {
        return text.to_owned();
    }
    if let Some(meant) = CHAR_MAPS.iter().find_map(|map| read_from(*map, text)) {
        return meant;
    }
    let inside = reread_inside(text);
    if inside != text {
        return inside;
    }
    text.chars().map(uncontrolled).collect()
}

/// `text` as UTF-8 that was read as `map`.
fn read_from(map: CharMap, text: &str) -> Option<String> {
    let mut bytes = map.bytes(text)?;
    if map.has_blanks() && BLANKS.is_match(&bytes) {
        bytes = with_blanks(&bytes);
    }
    if map.is_lossy() {
        bytes = LOSSES.replace_all(&bytes, "\u{fffd}".as_bytes()).into_owned();
    }
    decoded(bytes)
}

/// UTF-8 with 0xA0 where it became a blank.
fn with_blanks(bytes: &[u8]) -> Vec<u8> {
    let word = |found: &bytes::Captures| match &found[0] {
        b"\xc3 " => b"\xc3\xa0 ".to_vec(),
        other => other.to_vec(),
    };
    let blank = |found: &bytes::Captures| {
        found[0].iter().map(|byte| if *byte == b' ' { 0xa0 } else { *byte }).collect::<Vec<u8>>()
    };
    BLANKS.replace_all(&A_GRAVE.replace_all(bytes, word), blank).into_owned()
}

/// UTF-8, also as Java and CESU-8 write it: C0 80 for no character, and pairs of surrogates.
fn decoded(bytes: Vec<u8>) -> Option<String> {
    if !bytes.iter().any(|byte| matches!(byte, 0xed | 0xc0)) {
        return String::from_utf8(bytes).ok();
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = &*bytes;
    loop {
        rest = match rest {
            [] => break,
            [0xc0, 0x80, after @ ..] => {
                plain.push(0);
                after
            }
            [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d @ 0x80..=0xbf, after @ ..] => {
                let [a, b, c, d] = [*a, *b, *c, *d].map(u32::from);
                let code = ((a & 0xf) << 16) + ((b & 0x3f) << 10) + ((c & 0xf) << 6) + (d & 0x3f) + 0x1_0000;
                plain.extend(char::from_u32(code)?.to_string().bytes());
                after
            }
            [byte, after @ ..] => {
                plain.push(*byte);
                after
            }
        };
    }
    String::from_utf8(plain).ok()
}

/// `text` with those parts of it reread that look like characters of UTF-8.
fn reread_inside(text: &str) -> String {
    let (mut out, mut from, mut at) = (String::new(), 0, 0);
    while let Some(found) = UTF_8.find_at(text, at) {
        let before = text[..found.start()].chars().next_back();
        // What goes on from something before it is left alone.
        if before.is_some_and(|before| OTHER.is_match(before.encode_utf8(&mut [0; 4]))) {
            at = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        let part = found.as_str();
        out.push_str(&text[from..found.start()]);
        // A part that is all of it would be looked at for ever.
        out.push_str(&if part.len() < text.len() && is_bad(part) { reread(part) } else { part.to_owned() });
        from = found.end();
        at = from;
    }
    out + &text[from..]
}
