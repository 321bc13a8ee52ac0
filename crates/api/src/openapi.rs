//! The OpenAPI document.

use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::condition;
use crate::openai::{answer, chat, completions, models, tokenize};

/// The document that `/openapi.json` answers with.
#[derive(OpenApi)]
#[openapi(
    info(title = "SLED", description = "OpenAI's API, over devices that draft and a server that verifies."),
    paths(
        chat::create,
        completions::create,
        models::list,
        models::get,
        tokenize::tokenize,
        tokenize::detokenize,
        condition::health,
        condition::metrics,
    ),
    components(schemas(answer::ChatChunk)),
    modifiers(&Key),
    security((), ("key" = []))
)]
pub(crate) struct Document;

/// The API key, if there is one.
struct Key;

impl utoipa::Modify for Key {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("key", scheme);
    }
}
