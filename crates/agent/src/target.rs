//! What a device serves: what a server says of itself, or was last known to be; without either, the draft model makes do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sled_api::backend::DrafterCard;
use sled_core::message::MAX_BLOCK;
use sled_core::names::{Fingerprint, PlainText};
use sled_device::{RemoteServer, Vocabularies};
use sled_model::vocabulary::Vocab;
use sled_wire::{Bounds, Checksum, Description};

use crate::Error;

/// What is remembered of servers, in the folder of their vocabularies.
const SERVERS: &str = "servers.json";

/// What a device serves.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name that requests call it by.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The vocabulary, with the chat template.
    pub vocab: Vocab,
    /// What sessions are bound to.
    pub bounds: Bounds,
    /// Identifies the target model; `None` if nothing is known of it.
    pub model_fingerprint: Option<Fingerprint>,
    /// A server that has it; `None` if none answers.
    pub remote: Option<RemoteServer>,
}

/// What is remembered of a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Remembered {
    #[serde(with = "spelt")]
    name: PlainText,
    #[serde(with = "spelt")]
    model: PlainText,
    #[serde(with = "spelt")]
    model_fingerprint: Fingerprint,
    #[serde(with = "spelt")]
    vocabulary_fingerprint: Fingerprint,
    #[serde(with = "spelt")]
    vocabulary_sha256: Checksum,
    vocabulary_size: usize,
    context: usize,
    max_draft: usize,
}

impl Target {
    /// What the first of `servers` that answers serves. It is remembered beside `vocabularies`, with its own.
    ///
    /// # Errors
    /// If none answers, or its vocabulary cannot be had.
    pub async fn from_server(servers: &[String], vocabularies: &Vocabularies) -> Result<Self, Error> {
        let remote = RemoteServer::connect_any(servers).await?;
        let vocab = vocabularies.obtain(&remote).await?;
        let description = remote.description().clone();
        if let Err(error) = remember(vocabularies, remote.address(), &description) {
            // It is only missed when the device starts and the server does not answer.
            tracing::warn!(%error, "what the server serves cannot be kept");
        }
        let Description { name, model, model_fingerprint, bounds, .. } = description;
        Ok(Self {
            name: usable(&name, &model),
            description: model.into(),
            vocab,
            bounds,
            model_fingerprint: Some(model_fingerprint),
            remote: Some(remote),
        })
    }

    /// Checks that token ids mean the same to it and to a drafter with the vocabulary `vocab`.
    ///
    /// # Errors
    /// If they do not.
    pub fn check_vocabulary(self, vocab: &Vocab) -> Result<Self, Error> {
        let (ours, theirs) = (vocab.fingerprint(), self.vocab.fingerprint());
        if ours == theirs {
            return Ok(self);
        }
        Err(Error::OtherVocabulary { ours, theirs, model: self.name })
    }

    /// What one of `servers`, none of which answers, served when it last did; `None` if that is not kept.
    #[must_use]
    pub fn remembered(servers: &[String], vocabularies: &Vocabularies) -> Option<Self> {
        let known = remembered(vocabularies);
        servers.iter().filter_map(|server| known.get(server)).find_map(|server| {
            let vocab = vocabularies.kept(server.vocabulary_sha256, server.vocabulary_fingerprint)?;
            Some(Self {
                name: usable(&server.name, &server.model),
                description: server.model.to_string(),
                vocab,
                bounds: Bounds {
                    vocabulary_size: server.vocabulary_size,
                    context: server.context,
                    max_draft: server.max_draft,
                },
                model_fingerprint: Some(server.model_fingerprint),
                remote: None,
            })
        })
    }

    /// What a draft model can serve alone, in texts of at most `context` tokens, until a server is met whose model
    /// has the same vocabulary.
    #[must_use]
    pub fn from_drafter(drafter: DrafterCard, vocab: Vocab, context: usize) -> Self {
        let bounds = Bounds { vocabulary_size: vocab.size(), context, max_draft: MAX_BLOCK };
        let DrafterCard { name, description } = drafter;
        Self { name, description, vocab, bounds, model_fingerprint: None, remote: None }
    }
}

/// The name that requests are to give: the server's, or if it has none, its description without the size, in lower case and
/// without spaces.
fn usable(name: &str, description: &str) -> String {
    if !name.is_empty() {
        return name.to_owned();
    }
    let name = description.split(" (").next().unwrap_or(description);
    name.split_whitespace().collect::<Vec<_>>().join("-").to_lowercase()
}

/// What is remembered of each server by its address; what cannot be read is forgotten.
fn remembered(vocabularies: &Vocabularies) -> BTreeMap<String, Remembered> {
    let text = vocabularies.read_beside(SERVERS).unwrap_or_default();
    let servers: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    let known = |(address, server)| Some((address, serde_json::from_value(server).ok()?));
    servers.into_iter().filter_map(known).collect()
}

/// A type as it is written and read.
mod spelt {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

fn remember(vocabularies: &Vocabularies, address: &str, description: &Description) -> std::io::Result<()> {
    let mut servers = remembered(vocabularies);
    let server = Remembered {
        name: description.name.clone(),
        model: description.model.clone(),
        model_fingerprint: description.model_fingerprint,
        vocabulary_fingerprint: description.vocabulary_fingerprint,
        vocabulary_sha256: description.vocabulary_file.checksum,
        vocabulary_size: description.bounds.vocabulary_size,
        context: description.bounds.context,
        max_draft: description.bounds.max_draft,
    };
    servers.insert(address.to_owned(), server);
    vocabularies.write_beside(SERVERS, serde_json::to_string_pretty(&servers)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_a_name_for_its_model_is_called_by_its_description() {
        let description = "Little Model 1.5B (1777M parameters, Q4_K - Medium, 1060 MiB)";
        assert_eq!(usable("little-1.5b", description), "little-1.5b");
        assert_eq!(usable("", description), "little-model-1.5b");
    }
}
