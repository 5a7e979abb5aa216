//! Bodies: sounds and pictures that come with a request. They go to a file, never whole into memory.

use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use http_body_util::BodyExt;
use tempfile::NamedTempFile;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Limits;
use super::problem::Problem;
use super::shelf::{Shelf, unreadable};
use crate::data::{Content, Header, Medium};

/// Of a body that is too large so many times the limit is read and dropped, so that the client hears why.
const DROPPED: u64 = 16;

/// A body that was read and decoded.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) content: Content,
    /// Of a sound.
    pub(super) seconds: Option<f64>,
}

impl Upload {
    pub(super) fn medium(&self) -> Medium {
        match self.content {
            Content::Sound(_) => Medium::Speech,
            Content::Picture(_) => Medium::Image,
        }
    }
}

/// Takes a body in and decodes it on one of the threads that `decoders` stands for.
pub(super) async fn take(
    body: Body,
    limits: Limits,
    shelf: &Arc<Shelf>,
    decoders: &Arc<Semaphore>,
) -> Result<Upload, Problem> {
    let late = |what: &str, time: std::time::Duration| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, format!("{what} took longer than {} seconds", time.as_secs()))
    };
    let file = timeout(limits.body_time, store(body, limits.bytes));
    let file = file.await.map_err(|_| late("the body", limits.body_time))??;
    let permit = decoders.clone().acquire_owned().await.map_err(Problem::failed)?;
    let shelf = shelf.clone();
    let decoding = tokio::task::spawn_blocking(move || {
        // Until it ends, whoever waits for it.
        let _permit = permit;
        decode(file.path(), limits.seconds, &shelf)
    });
    let decoded = timeout(limits.decode_time, decoding).await.map_err(|_| late("decoding", limits.decode_time))?;
    decoded.map_err(Problem::failed)?
}

async fn store(mut body: Body, most: u64) -> Result<NamedTempFile, Problem> {
    let failed = |error: std::io::Error| Problem::failed(format!("a temporary file: {error}"));
    let mut file = NamedTempFile::new().map_err(failed)?;
    let mut bytes = 0u64;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len() as u64;
        if bytes <= most {
            file.write_all(&data).map_err(failed)?;
        } else if bytes > DROPPED * most {
            break;
        }
    }
    match bytes {
        0 => Err(Problem::new(StatusCode::BAD_REQUEST, "the body is empty; send a sound or a picture")),
        _ if bytes > most => {
            let why = format!("the body is larger than {:.0} MB", most as f64 / 1e6);
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why))
        }
        _ => {
            file.rewind().map_err(failed)?;
            Ok(file)
        }
    }
}

fn decode(path: &Path, most_seconds: f64, shelf: &Shelf) -> Result<Upload, Problem> {
    let medium = Medium::of(path).map_err(|error| {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("neither a sound nor a picture that can be read: {}", error.why()),
        )
    })?;
    let too_long = |seconds: f64| {
        let why = format!("the utterance is {seconds:.0} seconds long; at most {most_seconds:.0} are heard");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    };
    if medium == Medium::Speech {
        let header = Header::read(path).map_err(|error| unreadable(&error.why()))?;
        if let Some(seconds) = header.seconds().filter(|seconds| *seconds > most_seconds) {
            return Err(too_long(seconds));
        }
    }
    let content = Content::read(path, medium, shelf.audio, shelf.pictures);
    let content = content.map_err(|error| unreadable(&error.why()))?;
    let seconds = match &content {
        Content::Sound(sound) => Some(sound.whole as f64 / f64::from(shelf.audio.sample_rate)),
        Content::Picture(_) => None,
    };
    match seconds.filter(|seconds| *seconds > most_seconds) {
        Some(seconds) => Err(too_long(seconds)),
        None => Ok(Upload { content, seconds }),
    }
}
