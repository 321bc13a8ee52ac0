//! `sled top`: a server's live figures on a terminal.

mod feed;
mod history;
mod view;

use std::io::{IsTerminal, Write};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::Context;
use feed::News;
use history::History;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use sled_core::names::{PlainText, for_terminal};
use sled_server::Frame;
use view::Palette;

use crate::args::TopArgs;

/// How long a key may wait, and the age of the last figures on the screen.
const TICK: Duration = Duration::from_millis(200);

/// Draws until `q` is pressed, or prints until nobody reads.
pub fn top(args: &TopArgs) -> anyhow::Result<()> {
    let url = feed::url(&args.server)?;
    if args.json {
        return print(&feed::follow(url));
    }
    anyhow::ensure!(std::io::stdout().is_terminal(), "`sled top` draws on a terminal; elsewhere use --json");
    let news = feed::follow(url);
    let mut terminal = ratatui::try_init().context("the terminal cannot be drawn on; use --json")?;
    let watched = watch(&mut terminal, &news);
    ratatui::restore();
    watched
}

fn print(news: &Receiver<News>) -> anyhow::Result<()> {
    for news in news {
        match news {
            News::Frame(json) => {
                if writeln!(std::io::stdout(), "{}", for_terminal(&json)).is_err() {
                    break;
                }
            }
            News::Away(why) => eprintln!("{}", for_terminal(&why)),
        }
    }
    Ok(())
}

/// A frame whose names cannot speak to the terminal.
fn plain(mut frame: Frame) -> Frame {
    let names = frame.sessions.iter_mut().flat_map(|session| [&mut session.device, &mut session.activity]);
    for name in names.chain([&mut frame.server.model, &mut frame.server.version]) {
        *name = PlainText::from(std::mem::take(name)).into();
    }
    frame
}

fn watch(terminal: &mut DefaultTerminal, news: &Receiver<News>) -> anyhow::Result<()> {
    let palette = Palette::of_environment();
    let mut history = History::default();
    loop {
        while let Ok(news) = news.try_recv() {
            match news {
                News::Frame(json) => match serde_json::from_str(&json) {
                    Ok(frame) => history.add(plain(frame)),
                    Err(_other) => {
                        let why = "the figures cannot be read; run the same version of sled here as on the server";
                        history.lose(why.to_owned());
                    }
                },
                News::Away(why) => history.lose(PlainText::from(why).into()),
            }
        }
        terminal.draw(|screen| view::draw(screen, &history, &palette))?;
        if event::poll(TICK)?
            && let Event::Key(key) = event::read()?
        {
            let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupted || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(());
            }
        }
    }
}
