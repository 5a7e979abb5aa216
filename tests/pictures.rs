//! Pictures as CLIP's Python reads them: every kind of file decoded and resized as Pillow does, to the byte; alpha lies over white first,
//! and of 16 bits the upper 8 count. `tests/fixtures/make_pictures.py` and `make_media.py` make the vectors.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use cmd::data::{Picture, PictureForm};
use common::fixture;

fn form() -> PictureForm {
    PictureForm::new(32, 50)
}

fn read(path: &Path) -> Picture {
    form().read(path).expect("a picture")
}

#[test]
fn resizing_is_pillows_bicubic() {
    for name in ["97x61", "50x131", "20x24"] {
        let expected = read(&fixture(&format!("resize_{name}_expected.png")));
        assert!(read(&fixture(&format!("resize_{name}.png"))).planes == expected.planes, "{name}");
    }
}

#[test]
fn every_kind_of_file_has_pillows_pixels() {
    for name in [
        "420.jpg",
        "422.jpg",
        "progressive.jpg",
        "grey.jpg",
        "cmyk.jpg",
        "lossy.webp",
        "alpha.png",
        "palette.png",
        "grey16.png",
        "rgb16.png",
    ] {
        let (stem, _) = name.split_once('.').expect("a file name");
        let expected = read(&fixture(&format!("media_{stem}_expected.png")));
        assert!(read(&fixture(&format!("media_{name}"))).planes == expected.planes, "{name}");
    }
}

#[test]
fn bad_files_say_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let message = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let decoded = form().check(&path, true).expect_err("an error").to_string();
        assert_eq!(form().read(&path).expect_err("an error").to_string(), decoded);
        (decoded, form().check(&path, false).is_ok())
    };
    let jpeg = std::fs::read(fixture("media_420.jpg")).expect("a picture");
    let png = std::fs::read(fixture("media_alpha.png")).expect("a picture");
    let (cut, header_is_fine) = message("cut ü.jpg", &jpeg[..jpeg.len() * 2 / 3]);
    assert!(cut.ends_with("cut ü.jpg: not a readable image (it is cut off)") && header_is_fine, "{cut}");
    assert!(message("cut.png", &png[..png.len() / 2]).0.contains("cut.png: not a readable image"));
    assert!(message("progressive.jpg", &jpeg[..30]).0.contains("not a readable image"));
    assert!(message("empty.jpg", b"").0.contains("an empty file"));
    assert!(message("text.jpg", b"no image at all").0.contains("not a readable image"));

    // Bombs: 60,000 x 60,000 by the header, in a few hundred bytes.
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    let mut bomb = jpeg;
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    assert!(message("bomb.jpg", &bomb).0.contains("60000 x 60000 pixels, more than"));
    let mut bomb = png;
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    assert!(message("bomb.png", &bomb).0.contains("not a readable image"));

    // Its coding stands in the header.
    let mut arithmetic = std::fs::read(fixture("media_420.jpg")).expect("a picture");
    arithmetic[frame + 1] = 0xc9;
    let (why, header_is_fine) = message("arithmetic.jpg", &arithmetic);
    assert!(why.contains("arithmetic") && !header_is_fine, "{why}");
}

#[test]
fn alpha_and_16_bits_of_files_from_the_wild() {
    let mean = |name: &str| {
        let planes = read(&fixture(&format!("wild/{name}"))).planes;
        planes.iter().map(|byte| f64::from(*byte)).sum::<f64>() / planes.len() as f64
    };
    // Black under clear pixels, and half of 16 bits: a loader that drops alpha or clips sees black and white.
    assert!((mean("01_rgba_black_under_alpha.png") - 214.4).abs() < 0.1);
    assert!((mean("07_grey16.png") - 122.6).abs() < 0.1);
}
