//! Models as users name them.

use std::path::PathBuf;

use sled_model::catalog::{self, ModelRef, Store};

use crate::Usage;

/// Where the file of a model is that was named on the command line.
pub fn locate(model: &str) -> anyhow::Result<PathBuf> {
    let reference = parse(model)?;
    Ok(Store::from_env()?.locate(&reference)?)
}

/// What the API calls a model that was named on the command line: its name, or that of its file.
pub fn api_name(model: &str) -> String {
    let file = model.strip_suffix(".gguf").and_then(|path| path.rsplit(['/', '\\']).next());
    file.unwrap_or(model).to_owned()
}

/// A model that was named on the command line.
pub fn parse(model: &str) -> anyhow::Result<ModelRef> {
    Ok(ModelRef::parse(model).map_err(|error| Usage(error.to_string()))?)
}

/// The models that are downloaded, by the names that they can be given by, and their files.
pub fn downloaded() -> anyhow::Result<Vec<(String, PathBuf)>> {
    let store = Store::from_env()?;
    let mut found = store.others();
    for entry in catalog::entries()? {
        let name = entry.name.clone();
        if let Ok(path) = store.locate(&ModelRef::Known(Box::new(entry))) {
            found.push((name, path));
        }
    }
    Ok(found)
}
