//! The frozen encoders of a run.

use std::cell::OnceCell;
use std::sync::Arc;

use tch::Device;

use super::{
    EncoderError, EncodersConfig, FrozenEncoder, ImageSpec, ImageStates, Pair, SpeechSpec, SpeechStates, TextEncoder,
    TextEncoderConfig,
};
use crate::data::{Pixels, Waveforms};
use crate::model::CmdModel;

/// Those of speech and images, and where it is named the text encoder.
pub struct Encoders {
    pair: Arc<Pair>,
    /// Loaded when it is first needed.
    text: OnceCell<TextEncoder>,
    text_config: TextEncoderConfig,
}

impl Encoders {
    /// Loads and checks those of speech and images; the text encoder's turn comes when it is needed.
    ///
    /// # Errors
    /// When a file cannot be read or breaks the contract.
    pub fn load(config: &EncodersConfig, device: Device) -> Result<Self, EncoderError> {
        let pair = Arc::new(Pair::load(config, device)?);
        Ok(Self { pair, text: OnceCell::new(), text_config: config.text.clone() })
    }

    /// Those of speech and images.
    #[must_use]
    pub fn pair(&self) -> &Arc<Pair> {
        &self.pair
    }

    /// The speech encoder.
    #[must_use]
    pub fn speech(&self) -> &dyn FrozenEncoder<Spec = SpeechSpec, Input = Waveforms, Features = SpeechStates> {
        self.pair.speech()
    }

    /// The image encoder.
    #[must_use]
    pub fn image(&self) -> &dyn FrozenEncoder<Spec = ImageSpec, Input = Pixels, Features = ImageStates> {
        self.pair.image()
    }

    /// Where they run.
    #[must_use]
    pub fn device(&self) -> Device {
        self.pair.device()
    }

    /// Whether a text encoder is named.
    #[must_use]
    pub fn names_text(&self) -> bool {
        self.text_config.path.is_some()
    }

    /// The text encoder, which `what` needs: loaded and checked the first time.
    ///
    /// # Errors
    /// When none was named, its file cannot be read or breaks the contract, or its embeddings are of another width than the images'.
    pub fn text(&self, what: &str) -> Result<&TextEncoder, EncoderError> {
        let Some(path) = &self.text_config.path else { return Err(EncoderError::NoText { what: what.to_owned() }) };
        if let Some(text) = self.text.get() {
            return Ok(text);
        }
        let text = TextEncoder::load(&self.text_config, self.device())?;
        let (of_text, of_image) = (text.spec().width, self.image().spec().width);
        if of_text != of_image {
            return Err(EncoderError::Widths { path: path.clone(), text: of_text, image: of_image });
        }
        Ok(self.text.get_or_init(|| text))
    }

    /// Has the text encoder read the keywords of `model`, if its head is cascaded.
    ///
    /// # Errors
    /// When there is none, or another one than these keywords are of.
    pub fn connect(&self, model: &mut CmdModel) -> Result<(), EncoderError> {
        match model.speech().cascade() {
            Some(_) => self.text("a cascaded head")?.connect(model),
            None => Ok(()),
        }
    }
}
