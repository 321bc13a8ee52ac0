//! `GET /v1/models`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::options::mode_name;
use crate::error::{Error, ErrorBody};
use crate::state::{Api, Served};

/// The models that are served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Models {
    /// `list`.
    object: &'static str,
    /// The one.
    data: Vec<Model>,
}

/// A model that is served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Model {
    /// Its name.
    id: String,
    /// `model`.
    object: &'static str,
    /// Since when, in seconds since 1970.
    created: u64,
    /// `sled`.
    owned_by: &'static str,
    /// Its own name, without aliases.
    root: String,
    /// Always null.
    parent: Option<String>,
    /// The most tokens that a text may have, answer included.
    max_model_len: usize,
    /// What SLED tells.
    sled: SledModel,
}

/// What SLED tells of a model.
#[derive(Debug, Serialize, ToSchema)]
struct SledModel {
    /// What it is, for people.
    description: String,
    /// The name of what drafts for it here.
    drafter: Option<String>,
    /// What that is, for people.
    drafter_description: Option<String>,
    /// Who may answer; the first does if nothing is asked for.
    modes: Vec<&'static str>,
    /// The most tokens that a text may have, answer included.
    context: usize,
}

impl Model {
    fn of(served: &Served) -> Self {
        let card = served.backend.model();
        Self {
            id: card.id.clone(),
            object: "model",
            created: served.created,
            owned_by: "sled",
            root: card.id.clone(),
            parent: None,
            max_model_len: card.context,
            sled: SledModel {
                description: card.description.clone(),
                drafter: card.drafter.as_ref().map(|drafter| drafter.name.clone()),
                drafter_description: card.drafter.as_ref().map(|drafter| drafter.description.clone()),
                modes: card.modes.iter().copied().map(mode_name).collect(),
                context: card.context,
            },
        }
    }
}

/// The models that are served.
#[utoipa::path(
    get, path = "/v1/models", tag = "OpenAI",
    responses((status = 200, body = Models), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(crate) async fn list(State(api): State<Api>) -> Result<Json<Models>, Error> {
    Ok(Json(Models { object: "list", data: vec![Model::of(&*api.served()?)] }))
}

/// One of them.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "OpenAI", params(("model" = String, Path, description = "Its name")),
    responses((status = 200, body = Model), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(crate) async fn get(State(api): State<Api>, Path(model): Path<String>) -> Result<Json<Model>, Error> {
    let served = api.served()?;
    served.check_model(Some(&model))?;
    Ok(Json(Model::of(&served)))
}
