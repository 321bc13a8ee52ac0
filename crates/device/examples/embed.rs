//! A device inside a program of one's own: it drafts, with whatever implements `Drafter`, and a server verifies.
//!
//!     cargo run --release --locked -p sled-device --example embed
//!
//! The server is started here too, with the engine of the server's own example, so that there is one to connect to.

#![allow(unreachable_pub, dead_code, clippy::print_stdout)]

#[path = "../../server/examples/engine/recital.rs"]
mod recital;

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::names::Fingerprint;
use sled_core::policy::Policy;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_core::server::Assist;
use sled_device::{Drafts, RemoteServer, Session, SessionOptions, Vocabularies};
use sled_model::drafter::Drafter;
use sled_server::{Identity, Server, Settings};

/// Drafts the rest of a phrase that the text has begun.
struct Phrases(Vec<Vec<Token>>);

impl Drafter for Phrases {
    fn draft(&mut self, context: Context<'_>, _sampler: &Sampler) -> Result<Option<Draft>, sled_model::Error> {
        let next = |phrase: &Vec<Token>| {
            let begun = (1..phrase.len()).rev().find(|&len| context.tokens.ends_with(&phrase[..len]))?;
            Some((begun, phrase[begun]))
        };
        let longest = self.0.iter().filter_map(next).max_by_key(|(begun, _)| *begun);
        // The more of a phrase is there, the surer it goes on; the default policy learns what such a confidence is worth.
        Ok(longest.map(|(begun, token)| Draft { token, confidence: begun as f32 / (begun + 1) as f32 }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = serve().await?;

    // What the server serves, and its vocabulary, which is fetched once and kept.
    let remote = RemoteServer::connect(&server).await?;
    let folder = tempfile::tempdir()?;
    let vocab = Vocabularies::new(folder.path().to_owned(), recital::read_vocabulary).obtain(&remote).await?;

    let phrases = ["the server verifies them", "tokens and more tokens"];
    let phrases: Result<_, _> = phrases.iter().map(|phrase| vocab.tokenize(phrase, false, false)).collect();
    let drafts = Drafts::own(Box::new(Phrases(phrases?)))?;
    let mut session = Session::open(
        &remote,
        SessionOptions {
            drafter: Some((drafts, Policy::Fixed { k: 8 })),
            ..SessionOptions::new("embedded", vocab.fingerprint(), vocab.eog_tokens())
        },
    )
    .await?;

    let text = "A device";
    print!("{text}");
    let prompt = Prompt { tokens: vocab.tokenize(text, true, false)?, max_tokens: 100, ..Prompt::default() };
    let mut stdout = std::io::stdout();
    let answer = session.generate(prompt, |emitted| {
        match stdout.write_all(&vocab.piece(emitted.token, false)).and_then(|()| stdout.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_closed) => ControlFlow::Break(()),
        }
    });
    let answer = answer.await?;
    let stats = answer.stats;
    println!(
        "\n{} tokens in {} rounds; {} of {} drafts accepted",
        answer.tokens.len(),
        stats.rounds,
        stats.accepted_tokens,
        stats.draft_tokens
    );
    Ok(())
}

/// Starts a server, and returns its address.
async fn serve() -> Result<String, Box<dyn Error>> {
    let vocab = recital::vocabulary();
    let identity = Identity {
        name: "recital".to_owned(),
        model: "some sentences, by heart".to_owned(),
        model_fingerprint: Fingerprint::new(1),
        vocabulary_fingerprint: vocab.fingerprint(),
        vocabulary: recital::VOCABULARY_FILE.into(),
        end_of_generation: vocab.eog_tokens().to_vec(),
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    // A pass of this engine takes microseconds: assisting devices that have not asked, it would be done before the first draft.
    let settings = Settings { assist: Assist::Never, ..Settings::default() };
    let server = Server::bind(any, Box::new(recital::Recital::new()), settings, identity).await?;
    let address = format!("http://{}", server.address()?);
    tokio::spawn(server.run(std::future::pending()));
    Ok(address)
}
