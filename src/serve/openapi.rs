//! What the API says of itself.

use utoipa::OpenApi;

use super::problem::Problem;
use super::{api, utterance};

#[derive(OpenApi)]
#[openapi(
    info(title = "CMD: speech-image retrieval", description = "Pictures by speech and words, and speech by pictures."),
    paths(
        api::about,
        api::search,
        api::search_by_words,
        api::search_by_item,
        utterance::keywords,
        utterance::keywords_of_item,
        utterance::attention,
        utterance::attention_of_item,
        api::picture,
        api::sound
    ),
    components(schemas(Problem))
)]
struct Document;

pub(super) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
