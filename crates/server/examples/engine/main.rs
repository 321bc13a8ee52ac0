//! Another engine behind the server: whatever implements `Model` is served to devices, and over HTTP, as llama.cpp is.
//!
//!     cargo run --release --locked -p sled-server --example engine
//!
//! It prints how to ask it something, and serves until Ctrl-C. The engine itself is in `recital.rs`.

#![allow(unreachable_pub, dead_code, clippy::print_stdout)]

mod recital;

use std::error::Error;
use std::net::SocketAddr;

use recital::Recital;
use sled_core::names::Fingerprint;
use sled_server::{Front, Http, Identity, Server, Settings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
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
    let http = Http::bind(any, sled_api::Settings::default()).await?;
    let mut server = Server::bind(any, Box::new(Recital::new()), Settings::default(), identity).await?;
    let asked = format!("curl http://{}/v1/completions -H 'Content-Type: application/json'", http.address());
    server.serve_http(http, Front { vocab, threads: 1 })?;
    println!("devices connect to http://{}", server.address()?);
    println!(r#"{asked} -d '{{"prompt": "A device", "max_tokens": 100}}'"#);
    let interrupted = async {
        let _none_to_come = tokio::signal::ctrl_c().await;
    };
    server.run(interrupted).await?;
    Ok(())
}
