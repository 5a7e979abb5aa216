//! What the API says of itself.

use utoipa::OpenApi;

use super::api;
use super::problem::Problem;

#[derive(OpenApi)]
#[openapi(
    info(title = "CMD: speech-image retrieval", description = "Pictures by speech and words, and speech by pictures."),
    paths(
        api::about,
        api::search,
        api::search_by_words,
        api::search_by_item,
        api::attention,
        api::attention_of_item,
        api::picture,
        api::sound
    ),
    components(schemas(Problem))
)]
struct Document;

pub(super) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
