//! A picture of what retrieval looks like: queries and what they found, right or wrong, as one SVG file.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::examples::{Example, of_images, of_speech, said};
use super::{Embeddings, SplitResult};
use crate::data::{DataError, PictureForm, Split};

/// Pixels of a thumbnail's side.
const THUMBNAIL: u32 = 112;
const GAP: u32 = 12;
const LABEL: u32 = 300;
const HEAD: u32 = 64;
const SPEECH_QUERIES: usize = 6;
const IMAGE_QUERIES: usize = 3;
const FOUND: usize = 5;
const RIGHT: &str = "#1a7f37";
const WRONG: &str = "#c4320a";

/// SVG of queries spread evenly over the split (not chosen by outcome), each with its best five; `max_megapixels` as for evaluation.
///
/// # Errors
/// When an image of the split cannot be read any more.
pub fn retrieval_picture(
    split: &Split,
    embeddings: &Embeddings,
    result: &SplitResult,
    max_megapixels: i64,
) -> Result<String, DataError> {
    let form = PictureForm::new(THUMBNAIL, max_megapixels);
    let row_height = THUMBNAIL + 2 * GAP;
    let speech_queries = of_speech(embeddings, SPEECH_QUERIES, FOUND);
    let image_queries = of_images(embeddings, IMAGE_QUERIES, FOUND);
    let width = LABEL + (FOUND as u32) * (THUMBNAIL + GAP) + GAP;
    let rows = (speech_queries.len() + image_queries.len()) as u32;
    let height = 2 * HEAD + rows * row_height + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let recalls = &result.recalls;
    heading(&mut svg, 0, &format!("Speech → image: R@1 {:.1} %", recalls.speech_to_image.r1));
    let mut top = HEAD;
    for Example { query, found } in speech_queries {
        paragraph(&mut svg, GAP, top + GAP, &format!("“{}”", said(split, embeddings, query)), 34, "#111");
        for (place, row) in found.into_iter().enumerate() {
            let left = LABEL + place as u32 * (THUMBNAIL + GAP);
            let colour = if row == embeddings.owners[query] { RIGHT } else { WRONG };
            thumbnail(&mut svg, (left, top + GAP), &split.images[embeddings.gallery[row]].path, form, colour)?;
        }
        top += row_height;
    }
    heading(&mut svg, top, &format!("Image → speech: R@1 {:.1} %", recalls.image_to_speech.r1));
    top += HEAD;
    for Example { query, found } in image_queries {
        thumbnail(&mut svg, (GAP, top + GAP), &split.images[embeddings.gallery[query]].path, form, "#888")?;
        for (place, row) in found.into_iter().enumerate() {
            let said = said(split, embeddings, row);
            let colour = if embeddings.owners[row] == query { RIGHT } else { WRONG };
            line(
                &mut svg,
                THUMBNAIL + 3 * GAP,
                top + GAP + 20 + place as u32 * 22,
                &format!("{}. {said}", place + 1),
                colour,
            );
        }
        top += row_height;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn thumbnail(
    svg: &mut String,
    (left, top): (u32, u32),
    path: &Path,
    form: PictureForm,
    colour: &str,
) -> Result<(), DataError> {
    let picture = form.read(path)?;
    let png = picture.to_png().map_err(|why| DataError::Sample { path: path.to_owned(), why })?;
    let data = STANDARD.encode(png);
    let _ = writeln!(
        svg,
        "<image x=\"{left}\" y=\"{top}\" width=\"{THUMBNAIL}\" height=\"{THUMBNAIL}\" href=\"data:image/png;base64,{data}\"/>\
         <rect x=\"{left}\" y=\"{top}\" width=\"{THUMBNAIL}\" height=\"{THUMBNAIL}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"4\"/>"
    );
    Ok(())
}

fn heading(svg: &mut String, top: u32, text: &str) {
    let baseline = top + 40;
    let _ = writeln!(
        svg,
        "<text x=\"{GAP}\" y=\"{baseline}\" font-size=\"20\" font-weight=\"bold\">{}\
         <tspan dx=\"24\" font-size=\"14\" font-weight=\"normal\" fill=\"#666\">best first; green: right, orange: wrong</tspan></text>",
        escape(text)
    );
}

fn line(svg: &mut String, left: u32, baseline: u32, text: &str, colour: &str) {
    let _ = writeln!(svg, "<text x=\"{left}\" y=\"{baseline}\" fill=\"{colour}\">{}</text>", escape(text));
}

/// Text broken into lines of about `columns` characters.
fn paragraph(svg: &mut String, left: u32, top: u32, text: &str, columns: usize, colour: &str) {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + 1 + word.chars().count() > columns {
            lines.push(word.to_owned());
        } else {
            let space = if lines[last].is_empty() { "" } else { " " };
            lines[last].extend([space, word]);
        }
    }
    for (number, text) in lines.iter().enumerate() {
        line(svg, left, top + 20 + 20 * number as u32, text, colour);
    }
}

/// `text` as XML holds it; characters that XML 1.0 does not have stand as U+FFFD.
fn escape(text: &str) -> String {
    let is_in_xml =
        |c: char| !matches!(c, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    let text: String = text.chars().map(|c| if is_in_xml(c) { c } else { char::REPLACEMENT_CHARACTER }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_caption_is_well_formed() {
        assert_eq!(escape("a\u{7}b <c> & d\tü"), "a\u{fffd}b &lt;c&gt; &amp; d\tü");
    }
}
