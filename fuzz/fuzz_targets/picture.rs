#![no_main]
//! JPEG, PNG and WebP files.

mod desk;

use cmd::data::PictureForm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: desk::panics_may_be_caught(), |bytes: &[u8]| {
    let path = desk::put("a.image", bytes);
    let form = PictureForm::new(16, 50);
    let checked = form.check(&path, false);
    if let Ok(picture) = form.read(&path) {
        assert_eq!(picture.planes.len(), 3 * 16 * 16);
        assert!(checked.is_ok(), "read, but its header is refused: {checked:?}");
    }
});
