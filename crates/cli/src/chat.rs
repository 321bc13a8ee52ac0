//! `sled chat`: several turns in one session.

use std::io::{BufRead, IsTerminal, Write};

use sled_model::chat::Message;

use crate::args::ChatArgs;
use crate::run::{go_on, to_prompt};
use crate::show::{self, Output, Screen};
use sled_launch::Usage;
use sled_launch::device::{self, Connected};

/// Chats until the input ends.
pub async fn chat(args: ChatArgs) -> anyhow::Result<()> {
    if args.device.server == ["none"] {
        return Err(Usage("chat needs a server; use `sled run --server none` to decode without one".to_owned()).into());
    }
    let Connected { mut session, vocab } = device::connect(&args.device).await?;
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        eprintln!("Type a message and press Enter; Ctrl-D ends the chat.");
    }
    let mut messages: Vec<Message> =
        args.system.iter().map(|text| Message { role: "system".to_owned(), content: text.clone() }).collect();
    let mut legend = args.show.show_drafts;
    loop {
        if interactive {
            eprint!("\x1b[1m> \x1b[0m");
            std::io::stderr().flush()?;
        }
        // Reading blocks a thread of its own, so that the connection is kept alive while the user thinks.
        let line = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next()).await?;
        let Some(line) = line.transpose()? else { return Ok(()) };
        if line.trim().is_empty() {
            continue;
        }
        messages.push(Message { role: "user".to_owned(), content: line });
        let tokens = device::chat_tokens(&vocab, &messages)?;
        device::check_room(tokens.len(), session.context())?;
        let mut screen = Screen::new(&vocab, &args.sampling.stop, Some(Output::stdout(args.show.show_drafts)));
        let prompt = to_prompt(tokens, &args.sampling);
        let generation =
            session.generate(prompt, |emitted| go_on(screen.show(emitted.token, Some(emitted.provenance)))).await?;
        messages.push(Message { role: "assistant".to_owned(), content: screen.finish() });
        // Once is enough.
        if std::mem::take(&mut legend) {
            eprintln!("{}", show::legend());
        }
        eprintln!("\x1b[2m{}\x1b[0m", show::summary(generation.tokens.len(), generation.elapsed, &generation.stats));
    }
}
