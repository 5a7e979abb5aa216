//! Resizing against Pillow's antialiased bicubic, on which CLIP was trained: equal to the byte. `tests/fixtures/make_pictures.py` makes the vectors.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use cmd::data::Picture;
use common::fixture;

#[test]
fn resizing_is_pillows_bicubic() {
    for name in ["97x61", "50x131", "20x24"] {
        let ours = Picture::read(&fixture(&format!("resize_{name}.png")), 32).expect("a picture");
        let expected = Picture::read(&fixture(&format!("resize_{name}_expected.png")), 32).expect("a picture");
        assert!(ours.planes == expected.planes, "{name}");
    }
}
