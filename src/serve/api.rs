//! The API: what the page asks, and others may.

#![allow(unused_qualifications, reason = "utoipa's macros name their arguments in full")]

use std::sync::Arc;
use std::time::Instant;

use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use utoipa::IntoParams;

use super::access::{Access, guard};
use super::answers::{Allowed, Answer, Asked, Item, Told};
use super::desk::Counter;
use super::metrics::Metrics;
use super::problem::Problem;
use super::ranged::ranged;
use super::shelf::{About, Shelf, wav};
use super::upload::{Sent, Upload, hear_out, take};
use super::utterance::{attention, attention_of_item, keywords, keywords_of_item};
use super::{Limits, MOST_RESULTS, assets, openapi};
use crate::VERSION;
use crate::data::Medium;
use crate::encoders::is_blank;
use crate::search::Hit;

/// Examples of each medium that a page offers.
const EXAMPLES: usize = 6;
/// Sides of a picture in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 32..=512;
const SIDE: u32 = 192;
/// Characters of a query in words.
const MOST_CHARACTERS: usize = 1000;

/// What every request needs.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) shelf: Arc<Shelf>,
    pub(super) counter: Counter,
    limits: Limits,
    metrics: Arc<Metrics>,
    /// Threads that look up and read files of the index.
    workers: Arc<Semaphore>,
    /// Threads that decode what is sent, which may take long.
    decoders: Arc<Semaphore>,
}

/// Everything behind one guard.
pub(super) fn router(
    shelf: Shelf,
    counter: Counter,
    limits: Limits,
    metrics: &Arc<Metrics>,
    access: &Arc<Access>,
) -> Router {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let [workers, decoders] = [(); 2].map(|()| Arc::new(Semaphore::new(threads)));
    let shared = Shared { shelf: Arc::new(shelf), counter, limits, metrics: metrics.clone(), workers, decoders };
    assets::routes()
        .route("/api/about", get(about))
        .route("/api/search", post(search).get(search_by_words))
        .route("/api/items/{id}/search", get(search_by_item))
        .route("/api/keywords", post(keywords))
        .route("/api/items/{id}/keywords", get(keywords_of_item))
        .route("/api/attention/{image}", post(attention))
        .route("/api/items/{id}/attention/{image}", get(attention_of_item))
        .route("/api/items/{id}/picture", get(picture))
        .route("/api/items/{id}/sound", get(sound))
        .route("/openapi.json", get(|| async { Json(openapi::document()) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(figures))
        .fallback(|| async { Problem::not_found("there is nothing here; /openapi.json tells what there is") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this way of asking is not for here; see /openapi.json")
        })
        .layer(middleware::from_fn_with_state(access.clone(), guard))
        .layer(middleware::from_fn_with_state(limits, hear_out))
        .layer(middleware::from_fn_with_state(shared.clone(), measure))
        .with_state(shared)
}

async fn measure(State(shared): State<Shared>, route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    shared.metrics.answered(route, response.status().as_u16(), begun);
    response
}

async fn figures(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], shared.metrics.text())
        .into_response()
}

/// How a search is asked.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Search {
    /// Results, 12 if nothing is said.
    #[param(minimum = 1, maximum = 100)]
    k: Option<usize>,
    /// "images" or "speech": what is to be found; by default pictures by speech and speech by pictures.
    find: Option<String>,
}

/// How a search by words is asked.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Words {
    /// What is looked for, at most 1,000 characters.
    #[param(max_length = 1000)]
    text: String,
    /// Results, 12 if nothing is said.
    #[param(minimum = 1, maximum = 100)]
    k: Option<usize>,
    /// "images" or "speech": what is to be found; by default pictures, where the index holds some.
    find: Option<String>,
}

/// A search whose numbers and names were checked.
struct Wanted {
    k: usize,
    find: Option<Medium>,
}

/// How large a picture is.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Side {
    /// Pixels, 192 if nothing is said.
    #[param(minimum = 32, maximum = 512)]
    side: Option<u32>,
}

impl Shared {
    /// Work that takes a thread for a while.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = self.workers.clone().acquire_owned().await.map_err(Problem::failed)?;
        let shelf = self.shelf.clone();
        let done = spawn_blocking(move || {
            let _permit = permit;
            work(&shelf)
        });
        done.await.map_err(Problem::failed)?
    }

    /// What is nearest to `row`.
    async fn answer(
        &self,
        row: Vec<f32>,
        (asked, asks_as): (Asked, Medium),
        wanted: Wanted,
        begun: Instant,
    ) -> Result<Json<Answer>, Problem> {
        let found = self.work(move |shelf| {
            let find = wanted.find.unwrap_or_else(|| shelf.index.asked_by(asks_as));
            let item = |Hit { id, score, .. }: Hit| Some(Item::new(id, shelf.index.entry(id)?, Some(score)));
            Ok((asked, shelf.search(&row, find, wanted.k)?.into_iter().filter_map(item).collect()))
        });
        let (query, found) = found.await?;
        Ok(Json(Answer { query, milliseconds: begun.elapsed().as_millis() as u64, found }))
    }

    pub(super) async fn take(&self, sent: &Sent) -> Result<Upload, Problem> {
        take(sent, self.limits, &self.shelf, &self.decoders).await
    }
}

/// A number of a request, which must lie within bounds.
pub(super) fn within<T: PartialOrd + std::fmt::Display + Copy>(
    value: Option<T>,
    or_else: T,
    bounds: std::ops::RangeInclusive<T>,
    name: &str,
) -> Result<T, Problem> {
    let value = value.unwrap_or(or_else);
    if bounds.contains(&value) {
        return Ok(value);
    }
    let why = format!("{name} must lie between {} and {}", bounds.start(), bounds.end());
    Err(Problem::new(StatusCode::BAD_REQUEST, why))
}

/// What stands behind the question mark of an address.
pub(super) fn asked<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let wrong = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    let query = uri.query().unwrap_or_default();
    // Elsewhere a percent sign that is none would stand for itself, and bytes of no character for U+FFFD.
    let is_byte = |part: &str| part.get(..2).is_some_and(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
    if !query.split('%').skip(1).all(is_byte) || percent_decode_str(query).decode_utf8().is_err() {
        return Err(wrong("a % of the query is followed by no byte of UTF-8; write % as %25".to_owned()));
    }
    let found = Query::try_from_uri(uri).map(|Query(found)| found).map_err(|error| error.body_text());
    found.map_err(|why| wrong(why.replace("Failed to deserialize query string", "the query")))
}

fn wanted(uri: &Uri) -> Result<Wanted, Problem> {
    let Search { k, find } = asked(uri)?;
    checked(k, find)
}

fn checked(k: Option<usize>, find: Option<String>) -> Result<Wanted, Problem> {
    let find = find.map(|find| find.parse()).transpose();
    let find = find.map_err(|why: String| Problem::new(StatusCode::BAD_REQUEST, format!("find {why}")))?;
    Ok(Wanted { k: within(k, 12, 1..=MOST_RESULTS, "k")?, find })
}

/// What a query of this medium is called.
fn named_one(medium: Medium) -> &'static str {
    match medium {
        Medium::Speech => "speech",
        Medium::Image => "image",
    }
}

/// The number of an item, as it is asked for.
pub(super) type Named = Result<Path<String>, PathRejection>;

pub(super) fn number(named: Named) -> Result<usize, Problem> {
    named.ok().and_then(|Path(text)| text.parse().ok()).ok_or_else(no_number)
}

pub(super) fn no_number() -> Problem {
    Problem::not_found("items have numbers")
}

/// What is served, and some of it to begin with.
#[utoipa::path(get, path = "/api/about", responses((status = 200, body = Told, description = "What is served")))]
pub(super) async fn about(State(shared): State<Shared>) -> Result<Json<Told>, Problem> {
    let limits = shared.limits;
    let told = shared.work(move |shelf| {
        let some = |medium| {
            let numbers = shelf.index.some(medium, EXAMPLES).into_iter();
            numbers.filter_map(|id| Some(Item::new(id, shelf.entry(id).ok()?, None))).collect()
        };
        let About { checkpoint, index, attention, keywords, text } = shelf.about.clone();
        Ok(Told {
            version: VERSION,
            checkpoint,
            index,
            images: shelf.index.count(Medium::Image),
            speech: shelf.index.count(Medium::Speech),
            attention,
            keywords,
            text,
            limits: Allowed {
                bytes: limits.bytes,
                seconds: limits.seconds,
                megapixels: shelf.max_megapixels,
                results: MOST_RESULTS,
                characters: MOST_CHARACTERS,
            },
            examples: some(Medium::Speech),
            pictures: some(Medium::Image),
        })
    });
    Ok(Json(told.await?))
}

/// Finds what is nearest to a sound or a picture that is sent.
#[utoipa::path(post, path = "/api/search", params(Search), request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "A WAV, FLAC, OGG Vorbis, MP3, JPEG, PNG or WebP file"),
    responses((status = 200, body = Answer, description = "What was found"), (status = "4XX", body = Problem, description = "Why it was refused"), (status = 503, body = Problem, description = "Too many wait; Retry-After says when to come back")))]
pub(super) async fn search(
    State(shared): State<Shared>,
    uri: Uri,
    Extension(sent): Extension<Sent>,
) -> Result<Json<Answer>, Problem> {
    let (begun, wanted) = (Instant::now(), wanted(&uri)?);
    let upload = shared.take(&sent).await?;
    let (medium, seconds) = (upload.medium(), upload.seconds);
    let row = shared.counter.embed(upload.content).await?;
    shared.answer(row, (Asked { medium: named_one(medium), seconds, cut: None }, medium), wanted, begun).await
}

/// Finds what is nearest to words.
#[utoipa::path(get, path = "/api/search", params(Words), responses((status = 200, body = Answer, description = "What was found"), (status = "4XX", body = Problem, description = "Why it was refused"), (status = 503, body = Problem, description = "Too many wait; Retry-After says when to come back")))]
pub(super) async fn search_by_words(State(shared): State<Shared>, uri: Uri) -> Result<Json<Answer>, Problem> {
    let begun = Instant::now();
    let Words { text, k, find } = asked(&uri)?;
    let wanted = checked(k, find)?;
    if !shared.shelf.about.text {
        return Err(Problem::not_found("there is no text encoder: the server was started without encoders.text.path"));
    }
    let text = shared.work(move |_| {
        let is_right = text.chars().count() <= MOST_CHARACTERS && !is_blank(&text);
        let why = || format!("text must hold words, and at most {MOST_CHARACTERS} characters");
        is_right.then_some(text).ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, why()))
    });
    let (row, is_cut) = shared.counter.read(text.await?).await?;
    let asked = Asked { medium: "text", seconds: None, cut: Some(is_cut) };
    shared.answer(row, (asked, Medium::Speech), wanted, begun).await
}

/// Finds what is nearest to a file of the index.
#[utoipa::path(get, path = "/api/items/{id}/search", params(("id" = usize, Path), Search), responses((status = 200, body = Answer, description = "What was found"), (status = "4XX", body = Problem, description = "Why it was refused")))]
pub(super) async fn search_by_item(State(shared): State<Shared>, id: Named, uri: Uri) -> Result<Json<Answer>, Problem> {
    let (begun, wanted, id) = (Instant::now(), wanted(&uri)?, number(id)?);
    let (row, medium) = shared
        .work(move |shelf| {
            let medium = shelf.entry(id)?.medium;
            let row = shelf.index.vector(id).ok_or_else(|| Problem::not_found("the index holds no such file"))?;
            Ok((row, medium))
        })
        .await?;
    shared.answer(row, (Asked { medium: named_one(medium), seconds: None, cut: None }, medium), wanted, begun).await
}

/// A picture of the index: the square that the model sees.
#[utoipa::path(get, path = "/api/items/{id}/picture", params(("id" = usize, Path), Side), responses((status = 200, content_type = "image/jpeg", body = Vec<u8>, description = "A JPEG file"), (status = "4XX", body = Problem, description = "Why it was refused")))]
pub(super) async fn picture(State(shared): State<Shared>, id: Named, uri: Uri) -> Result<Response, Problem> {
    let (id, side) = (number(id)?, within(asked::<Side>(&uri)?.side, SIDE, SIDES, "side")?);
    let jpeg = shared.work(move |shelf| shelf.picture(id, Some(side))?.to_jpeg().map_err(Problem::failed)).await?;
    Ok(([(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "private, max-age=600")], jpeg).into_response())
}

/// A sound of the index as a WAV file: what the model hears of it.
#[utoipa::path(get, path = "/api/items/{id}/sound", params(("id" = usize, Path)), responses((status = 200, content_type = "audio/wav", body = Vec<u8>, description = "A WAV file"), (status = 206, content_type = "audio/wav", body = Vec<u8>, description = "The range of it that was asked for"), (status = "4XX", body = Problem, description = "Why it was refused")))]
pub(super) async fn sound(State(shared): State<Shared>, id: Named, headers: HeaderMap) -> Result<Response, Problem> {
    let id = number(id)?;
    let bytes = shared.work(move |shelf| wav(&shelf.sound(id)?, shelf.audio.sample_rate).map_err(Problem::failed));
    let bytes = bytes.await?;
    Ok(ranged(&headers, "audio/wav", bytes))
}
