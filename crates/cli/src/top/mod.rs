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
use serde_json::Value;
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

/// A frame, none of whose texts can speak to the terminal.
fn frame(json: &str) -> serde_json::Result<Frame> {
    let mut value = serde_json::from_str(json)?;
    make_plain(&mut value);
    serde_json::from_value(value)
}

/// Makes all texts in `value` fit to be shown.
fn make_plain(value: &mut Value) {
    match value {
        Value::String(text) => *text = PlainText::from(std::mem::take(text)).into(),
        Value::Array(items) => items.iter_mut().for_each(make_plain),
        Value::Object(members) => members.values_mut().for_each(make_plain),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn watch(terminal: &mut DefaultTerminal, news: &Receiver<News>) -> anyhow::Result<()> {
    let palette = Palette::of_environment();
    let mut history = History::default();
    loop {
        while let Ok(news) = news.try_recv() {
            match news {
                News::Frame(json) => match frame(&json) {
                    Ok(frame) => history.add(frame),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn no_text_of_a_frame_speaks_to_the_terminal() {
        const EVIL: &str = "\u{1b}[2J\u{9b}31m\u{202e}pi";
        let session = serde_json::json!({"id": 1, "device": EVIL, "tokens": 1, "cached": 1, "committed": 1,
            "drafted": 1, "accepted": 1, "tokens_per_s": 7.1, "activity": EVIL, "since_s": 0.1, "age_s": 20.0});
        let json = serde_json::json!({
            "time_s": 60.0,
            "server": {"model": EVIL, "version": EVIL, "context": 4096, "sequences": 32, "threads": 2,
                "batching": EVIL, "assist": EVIL, "rate_goal": null},
            "rates": {"tokens_per_s": 1.0, "rounds_per_s": 1.0, "rows_per_s": 1.0, "steps_per_s": 1.0,
                "bytes_in_per_s": 1.0, "bytes_out_per_s": 1.0},
            "totals": {"tokens": 1, "steps": 1, "rows": 1, "commits": 1, "drafted": 1, "accepted": 1,
                "evictions": 1, "refused": 1, "sessions_opened": 1},
            "step": {"sessions_mean": 1.0, "rows_mean": 1.0, "ms_mean": 1.0, "queue_ms_mean": 1.0, "points": []},
            "cost": {"fixed_ms": 1.0, "row_ms": 1.0},
            "batch_sizes": [1],
            "cells": {"used": 1, "total": 4},
            "sessions": [session],
            "sessions_total": 1,
        });
        let shown = PlainText::new(EVIL).to_string();
        let frame = frame(&json.to_string()).unwrap();
        let server = frame.server;
        let texts = [server.model, server.version, server.batching, server.assist];
        assert_eq!(texts, [shown.as_str(); 4]);
        assert_eq!([&*frame.sessions[0].device, &*frame.sessions[0].activity], [shown.as_str(); 2]);
    }
}
