//! TensorBoard's event files: records of a length, a message and two checksums (TFRecord, `tensorflow/core/lib/io/record_writer.h`), the
//! messages those of `tensorflow/core/util/event.proto` and of TensorBoard's plug-ins, as far as they are written here.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Error, Result, Write};
use std::path::{Path, PathBuf};

use prost::Message;

const PREFIX: &str = "events.out.tfevents.";
/// Form of the messages.
const VERSION: &str = "brain.Event:2";

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    Session(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// 1: it starts.
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
    #[prost(oneof = "Datum", tags = "2, 4, 8")]
    datum: Option<Datum>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Datum {
    #[prost(float, tag = "2")]
    Scalar(f32),
    #[prost(message, tag = "4")]
    Image(Image),
    #[prost(message, tag = "8")]
    Tensor(Tensor),
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 3: red, green, blue.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    /// 7: texts.
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    texts: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dims: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin: Option<Plugin>,
    #[prost(string, tag = "3")]
    description: String,
}

#[derive(Clone, PartialEq, Message)]
struct Plugin {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct HyperParameters {
    #[prost(message, optional, tag = "3")]
    start: Option<SessionStart>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionStart {
    #[prost(map = "string, message", tag = "1")]
    values: HashMap<String, Setting>,
    #[prost(double, tag = "5")]
    start_time: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Setting {
    #[prost(oneof = "Kind", tags = "2, 3, 4")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Switch(bool),
}

/// A file of events.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// A new file in `folder`, which comes after those that are there. Of them TensorBoard keeps what was written for steps below `first`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(folder: &Path, first: u64) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut newest = None;
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name();
            let seconds =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok());
            newest = newest.max(seconds);
        }
        // They are read in the order of their names.
        let seconds = (now() as u64).max(newest.map_or(0, |newest| newest + 1));
        let host =
            rustix::system::uname().nodename().to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let path = folder.join(format!("{PREFIX}{seconds:010}.{host}.{}.0", std::process::id()));
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        let mut events = Self { file, path };
        events.write(0, What::FileVersion(VERSION.to_owned()))?;
        // TensorBoard takes the first start of a run for its beginning, and drops what is later than any other one.
        events.write(first as i64, What::Session(SessionLog { status: 1 }))?;
        Ok(events)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds numbers by their tags.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn scalars(&mut self, step: u64, numbers: &[(String, f64)]) -> Result<()> {
        let values = numbers.iter().map(|(tag, number)| Value {
            tag: tag.clone(),
            metadata: None,
            datum: Some(Datum::Scalar(*number as f32)),
        });
        self.write(step as i64, What::Summary(Summary { values: values.collect() }))
    }

    /// Adds a PNG file of `size` (width, height), with a `description` in Markdown.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn image(&mut self, step: u64, tag: &str, png: Vec<u8>, size: (u32, u32), description: &str) -> Result<()> {
        let (width, height) = (size.0 as i32, size.1 as i32);
        let image = Image { height, width, colorspace: 3, encoded: png };
        let metadata = Metadata { plugin: None, description: description.to_owned() };
        self.value(step, tag, Some(metadata), Datum::Image(image))
    }

    /// Adds a text in Markdown.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn text(&mut self, step: u64, tag: &str, markdown: &str) -> Result<()> {
        let shape = Some(Shape { dims: vec![Dim { size: 1 }] });
        let tensor = Tensor { kind: 7, shape, texts: vec![markdown.as_bytes().to_owned()] };
        self.value(step, tag, Some(plugin("text", Vec::new())), Datum::Tensor(tensor))
    }

    /// Adds what the plug-in "hparams" shows of a run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn hyper_parameters(&mut self, settings: &[(String, serde_json::Value)]) -> Result<()> {
        let values = settings.iter().map(|(key, value)| (key.clone(), Setting { kind: Some(Kind::from(value)) }));
        let start = SessionStart { values: values.collect(), start_time: now() };
        let content = HyperParameters { start: Some(start) }.encode_to_vec();
        // The plug-in looks at the metadata alone; an empty text stands for the value.
        let tensor = Tensor { kind: 7, shape: Some(Shape { dims: Vec::new() }), texts: vec![Vec::new()] };
        let metadata = plugin("hparams", content);
        self.value(0, "_hparams_/session_start_info", Some(metadata), Datum::Tensor(tensor))
    }

    fn value(&mut self, step: u64, tag: &str, metadata: Option<Metadata>, datum: Datum) -> Result<()> {
        let value = Value { tag: tag.to_owned(), metadata, datum: Some(datum) };
        self.write(step as i64, What::Summary(Summary { values: vec![value] }))
    }

    fn write(&mut self, step: i64, what: What) -> Result<()> {
        let message = Event { wall_time: now(), step, what: Some(what) }.encode_to_vec();
        let length = u64::try_from(message.len()).map_err(Error::other)?.to_le_bytes();
        let mut record = Vec::with_capacity(message.len() + 16);
        record.extend(length);
        record.extend(masked(&length));
        record.extend(&message);
        record.extend(masked(&message));
        // At once, so that a killed process leaves whole records.
        self.file.write_all(&record)
    }
}

fn plugin(name: &str, content: Vec<u8>) -> Metadata {
    Metadata { plugin: Some(Plugin { name: name.to_owned(), content }), description: String::new() }
}

impl From<&serde_json::Value> for Kind {
    fn from(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Bool(switch) => Self::Switch(*switch),
            serde_json::Value::String(text) => Self::Text(text.clone()),
            value => value.as_f64().map_or_else(|| Self::Text(value.to_string()), Self::Number),
        }
    }
}

/// CRC-32C as TFRecord keeps it: turned by 15 bits and shifted, so that the sum of a record that holds sums is another.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Seconds since 1970.
fn now() -> f64 {
    jiff::Timestamp::now().as_microsecond() as f64 / 1e6
}
