//! What retrieval looks like during training: one PNG file and two texts.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};

use super::Embeddings;
use super::examples::{of_images, of_speech, said};
use crate::data::{DataError, PictureForm, Split};

/// Pixels of a thumbnail's side.
const THUMBNAIL: u32 = 96;
const FRAME: u32 = 4;
const GAP: u32 = 6;
const QUERIES: usize = 8;
const FOUND: usize = 5;
const RIGHT: Rgb<u8> = Rgb([26, 127, 55]);
const WRONG: Rgb<u8> = Rgb([196, 50, 10]);
const ASKED: Rgb<u8> = Rgb([120, 120, 120]);

/// Queries spread evenly over a split and what they found.
#[derive(Clone, Debug)]
pub struct RetrievalSheet {
    /// A row for each utterance: the image that it speaks of, in a grey frame, and its best five, in green where that is one of them.
    pub png: Vec<u8>,
    /// Width and height.
    pub size: (u32, u32),
    /// What is said in each row, in Markdown.
    pub said: String,
    /// Images and the utterances that they found, in Markdown.
    pub heard: String,
}

impl RetrievalSheet {
    /// The sheet of a split's embeddings; `max_megapixels` as for evaluation.
    ///
    /// # Errors
    /// When an image of the split cannot be read any more.
    pub fn new(split: &Split, embeddings: &Embeddings, max_megapixels: i64) -> Result<Self, DataError> {
        let form = PictureForm::new(THUMBNAIL, max_megapixels);
        let cell = THUMBNAIL + 2 * FRAME + GAP;
        let rows = of_speech(embeddings, QUERIES, FOUND);
        let size = (cell * (1 + FOUND as u32) + GAP, cell * rows.len() as u32 + GAP);
        let mut sheet = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
        let mut texts =
            String::from("Grey: the image that is spoken of; then the best five, green where it is one of them.\n\n");
        for (number, row) in (0u32..).zip(&rows) {
            let own = embeddings.owners[row.query];
            texts += &format!("{}. {}\n", number + 1, escape(&said(split, embeddings, row.query)));
            for (place, image) in (0u32..).zip([&own].into_iter().chain(&row.found)) {
                let colour = if place == 0 {
                    ASKED
                } else if *image == own {
                    RIGHT
                } else {
                    WRONG
                };
                let picture = form.read(&split.images[embeddings.gallery[*image]].path)?.to_rgb();
                let framed = RgbImage::from_pixel(THUMBNAIL + 2 * FRAME, THUMBNAIL + 2 * FRAME, colour);
                let (left, top) = (i64::from(GAP + place * cell), i64::from(GAP + number * cell));
                image::imageops::replace(&mut sheet, &framed, left, top);
                image::imageops::replace(&mut sheet, &picture, left + i64::from(FRAME), top + i64::from(FRAME));
            }
        }
        let mut png = Cursor::new(Vec::new());
        let written = sheet.write_to(&mut png, ImageFormat::Png);
        written.map_err(|error| DataError::Sample { path: "the sheet of retrieval".into(), why: error.to_string() })?;
        Ok(Self { png: png.into_inner(), size, said: texts, heard: heard(split, embeddings) })
    }
}

fn heard(split: &Split, embeddings: &Embeddings) -> String {
    let mut text = String::from("| image | found, the best first; **bold**: spoken of it |\n| --- | --- |\n");
    for example in of_images(embeddings, QUERIES, FOUND) {
        let name = split.images[embeddings.gallery[example.query]].path.file_name().unwrap_or_default();
        let found = example.found.iter().map(|row| {
            let said = escape(&said(split, embeddings, *row));
            if embeddings.owners[*row] == example.query { format!("**{said}**") } else { said }
        });
        let found: Vec<String> = found.collect();
        text += &format!("| {} | {} |\n", escape(&name.to_string_lossy()), found.join(" · "));
    }
    text
}

/// `text` as Markdown shows it, on one line.
fn escape(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '<' | '>' | '#' | '|' | '!' => shown.extend(['\\', c]),
            c if c.is_control() => shown.push(' '),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_texts() {
        assert_eq!(escape("a|b *c* <d>\n# [e]"), "a\\|b \\*c\\* \\<d\\> \\# \\[e\\]");
    }
}
