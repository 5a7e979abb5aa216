//! Bodies: sounds and pictures that come with a request. They go to a file, never whole into memory.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Limits;
use super::problem::Problem;
use super::shelf::{Opened, Shelf, unreadable};
use crate::data::{Content, Header, Medium};

/// Of a body that is refused so many times the limit is read and dropped, so that the client, which may be sending still, hears why.
const DROPPED: u64 = 16;
/// Time for that.
const DROP_TIME: Duration = Duration::from_secs(10);
/// Time that a body waits to be decoded.
const WAIT: Duration = Duration::from_secs(10);

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

/// The body of a request, until somebody takes it.
#[derive(Clone, Debug)]
pub(super) struct Sent(Arc<Mutex<Option<Body>>>);

impl Sent {
    fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Keeps the body apart; where the answer is an error that nobody read it for, it is read and dropped, and the connection ends.
pub(super) async fn hear_out(State(limits): State<Limits>, mut request: Request, next: Next) -> Response {
    let waits = request.headers().contains_key(header::EXPECT);
    let body = std::mem::take(request.body_mut());
    if waits && body.size_hint().lower() > limits.bytes {
        return too_large(limits.bytes).into_response();
    }
    let sent = Sent(Arc::new(Mutex::new(Some(body))));
    request.extensions_mut().insert(sent.clone());
    let mut response = next.run(request).await;
    if let Some(mut body) = sent.take().filter(|body| !body.is_end_stream())
        && response.status().as_u16() >= 400
    {
        // Who waits to be told to go on has sent nothing yet.
        if !waits {
            let _ = timeout(DROP_TIME, drop_rest(&mut body, DROPPED * limits.bytes)).await;
        }
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads up to `most` bytes and forgets them.
async fn drop_rest(body: &mut Body, most: u64) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.into_data().map_or(0, |data| data.len() as u64);
        if bytes > most {
            return;
        }
    }
}

/// Takes the body in and decodes it on one of the threads that `decoders` stands for.
pub(super) async fn take(
    sent: &Sent,
    limits: Limits,
    shelf: &Arc<Shelf>,
    decoders: &Arc<Semaphore>,
) -> Result<Upload, Problem> {
    let late = |what: &str, time: Duration| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, format!("{what} took longer than {} seconds", time.as_secs()))
    };
    let mut body = sent.take().unwrap_or_default();
    let stored = timeout(limits.body_time, store(&mut body, limits.bytes)).await;
    let file = match stored.unwrap_or_else(|_| Err(late("the body", limits.body_time))) {
        Ok(file) => file,
        Err(problem) => {
            // Who was slow is not waited for again.
            if problem.status != StatusCode::REQUEST_TIMEOUT {
                let _ = timeout(DROP_TIME, drop_rest(&mut body, DROPPED * limits.bytes)).await;
            }
            return Err(problem);
        }
    };
    let permit = timeout(WAIT, decoders.clone().acquire_owned()).await.map_err(|_| Problem::busy())?;
    let permit = permit.map_err(Problem::failed)?;
    let shelf = shelf.clone();
    let decoding = tokio::task::spawn_blocking(move || {
        // Until it ends, whoever waits for it.
        let _permit = permit;
        decode(&file.path(), limits.seconds, &shelf)
    });
    let decoded = timeout(limits.decode_time, decoding).await.map_err(|_| late("decoding", limits.decode_time))?;
    decoded.map_err(Problem::failed)?
}

/// The body in a file without a name, which leaves nothing behind however the program ends.
async fn store(body: &mut Body, most: u64) -> Result<Opened, Problem> {
    let failed = |error: std::io::Error| match error.raw_os_error() {
        // Out of files; connections that end give some back.
        Some(libc::EMFILE | libc::ENFILE) => Problem::busy(),
        _ => Problem::failed(format!("a temporary file: {error}")),
    };
    let mut file: File = tempfile::tempfile().map_err(failed)?;
    let mut bytes = 0u64;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len() as u64;
        if bytes > most {
            return Err(too_large(most));
        }
        file.write_all(&data).map_err(failed)?;
    }
    if bytes == 0 {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is empty; send a sound or a picture"));
    }
    file.rewind().map_err(failed)?;
    Ok(Opened(file))
}

fn too_large(most: u64) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {:.0} MB", most as f64 / 1e6))
}

fn decode(path: &Path, most_seconds: f64, shelf: &Shelf) -> Result<Upload, Problem> {
    let medium = Medium::of(path).map_err(|error| {
        let why = format!("neither a sound nor a picture that can be read: {}", error.why());
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)
    })?;
    let too_long = || {
        let why = format!("the utterance is longer than {most_seconds:.0} seconds");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    };
    let bad = |error: crate::data::DataError| unreadable(&error.why());
    if medium == Medium::Image {
        let picture = shelf.pictures.read(path).map_err(bad)?;
        return Ok(Upload { content: Content::Picture(picture), seconds: None });
    }
    if Header::read(path).map_err(bad)?.seconds().is_some_and(|seconds| seconds > most_seconds) {
        return Err(too_long());
    }
    let sound = shelf.audio.read_bounded(path, most_seconds).map_err(bad)?;
    let seconds = sound.whole as f64 / f64::from(shelf.audio.sample_rate);
    // A begun sample counts.
    if seconds > most_seconds + 0.001 {
        return Err(too_long());
    }
    Ok(Upload { content: Content::Sound(sound), seconds: Some(seconds) })
}
