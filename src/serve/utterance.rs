//! What the model makes of an utterance: the keywords that it hears, and where it looks in a picture.

#![allow(unused_qualifications, reason = "utoipa's macros name their arguments in full")]

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Json;
use serde::Deserialize;
use utoipa::IntoParams;

use super::answers::{Heard, Looked};
use super::api::{Named, Shared, asked, no_number, number, within};
use super::problem::Problem;
use super::upload::Sent;
use crate::data::{Audio, Content};

/// Parts of an utterance over time.
const PARTS: std::ops::RangeInclusive<usize> = 1..=64;

/// In how many parts an utterance is shown.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parts {
    /// 8 if nothing is said; a model that hears keywords shows these instead, however many.
    #[param(minimum = 1, maximum = 64)]
    parts: Option<usize>,
}

/// What is asked where nothing may stand behind the question mark.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Shared {
    /// In how many parts it is shown where an utterance looks.
    fn parts(&self, uri: &Uri) -> Result<usize, Problem> {
        if !self.shelf.about.attention {
            return Err(Problem::not_found("the model has no fusion encoder: it was trained without CMD"));
        }
        within(asked::<Parts>(uri)?.parts, 8, PARTS, "parts")
    }

    fn hears(&self, uri: &Uri) -> Result<(), Problem> {
        if !self.shelf.about.keywords {
            return Err(Problem::not_found("the model hears no keywords: its speech.head is not cascaded"));
        }
        asked::<Nothing>(uri).map(|_| ())
    }

    async fn look(&self, sound: Audio, image: usize, parts: usize) -> Result<Json<Looked>, Problem> {
        let picture = self.work(move |shelf| shelf.picture(image, None)).await?;
        Ok(Json(self.counter.look(sound, picture, parts).await?.into()))
    }

    async fn hear(&self, sound: Audio) -> Result<Json<Heard>, Problem> {
        Ok(Json(self.counter.hear(sound).await?.into()))
    }

    async fn sound(&self, sent: &Sent) -> Result<Audio, Problem> {
        match self.take(sent).await?.content {
            Content::Sound(sound) => Ok(sound),
            Content::Picture(_) => {
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "this is asked of an utterance; send a sound"))
            }
        }
    }
}

/// The keywords that are heard in an utterance that is sent.
#[utoipa::path(post, path = "/api/keywords", request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "A sound"),
    responses((status = 200, body = Heard, description = "What is heard"), (status = "4XX", body = Problem, description = "Why it was refused"), (status = 503, body = Problem, description = "Too many wait; Retry-After says when to come back")))]
pub(super) async fn keywords(
    State(shared): State<Shared>,
    uri: Uri,
    Extension(sent): Extension<Sent>,
) -> Result<Json<Heard>, Problem> {
    shared.hears(&uri)?;
    let sound = shared.sound(&sent).await?;
    shared.hear(sound).await
}

/// The keywords that are heard in an utterance of the index.
#[utoipa::path(get, path = "/api/items/{id}/keywords", params(("id" = usize, Path)), responses((status = 200, body = Heard, description = "What is heard"), (status = "4XX", body = Problem, description = "Why it was refused"), (status = 503, body = Problem, description = "Too many wait; Retry-After says when to come back")))]
pub(super) async fn keywords_of_item(
    State(shared): State<Shared>,
    id: Named,
    uri: Uri,
) -> Result<Json<Heard>, Problem> {
    let id = number(id)?;
    shared.hears(&uri)?;
    let sound = shared.work(move |shelf| shelf.sound(id)).await?;
    shared.hear(sound).await
}

/// Where an utterance that is sent looks in a picture of the index.
#[utoipa::path(post, path = "/api/attention/{image}", params(("image" = usize, Path), Parts), request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "A sound"),
    responses((status = 200, body = Looked, description = "Where it looks"), (status = "4XX", body = Problem, description = "Why it was refused"), (status = 503, body = Problem, description = "Too many wait; Retry-After says when to come back")))]
pub(super) async fn attention(
    State(shared): State<Shared>,
    image: Named,
    uri: Uri,
    Extension(sent): Extension<Sent>,
) -> Result<Json<Looked>, Problem> {
    let (image, parts) = (number(image)?, shared.parts(&uri)?);
    let sound = shared.sound(&sent).await?;
    shared.look(sound, image, parts).await
}

/// Where an utterance of the index looks in a picture of it.
#[utoipa::path(get, path = "/api/items/{id}/attention/{image}", params(("id" = usize, Path), ("image" = usize, Path), Parts), responses((status = 200, body = Looked, description = "Where it looks"), (status = "4XX", body = Problem, description = "Why it was refused"), (status = 503, body = Problem, description = "Too many wait; Retry-After says when to come back")))]
pub(super) async fn attention_of_item(
    State(shared): State<Shared>,
    ids: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
) -> Result<Json<Looked>, Problem> {
    let Path((id, image)) = ids.map_err(|_| no_number())?;
    let (id, image, parts) =
        (id.parse().map_err(|_| no_number())?, image.parse().map_err(|_| no_number())?, shared.parts(&uri)?);
    let sound = shared.work(move |shelf| shelf.sound(id)).await?;
    shared.look(sound, image, parts).await
}
