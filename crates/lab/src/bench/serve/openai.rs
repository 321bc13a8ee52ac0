//! Clients of an OpenAI-compatible server: the peer that SLED is measured beside.

use std::io::BufRead;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use sled_sim::figures::{Answer, Log};
use sled_sim::load::Schedule;

use super::fleet::Fleet;

/// One client asks until `until`.
pub async fn client(fleet: Fleet, index: usize, until: Duration) -> anyhow::Result<Log> {
    let mut schedule = Schedule::new(fleet.arrivals, fleet.seed, index);
    let mut log = Log::default();
    for turn in 0.. {
        let arrived = schedule.next(fleet.began.elapsed());
        tokio::time::sleep_until((fleet.began + arrived).into()).await;
        if fleet.began.elapsed() >= until {
            break;
        }
        let fleet = fleet.clone();
        let (answer, tokens) =
            tokio::task::spawn_blocking(move || ask(&fleet, (index * 7 + turn) % fleet.tasks.len(), arrived, until))
                .await??;
        log.tokens.extend(tokens);
        log.answers.push(answer);
    }
    Ok(log)
}

/// The same prompt, the same length, temperature 0.
fn ask(fleet: &Fleet, task: usize, arrived: Duration, until: Duration) -> anyhow::Result<(Answer, Vec<Duration>)> {
    let task = &fleet.tasks[task];
    let request = json!({
        "messages": [{ "role": "user", "content": task.text }],
        "max_tokens": task.output.tokens.len(),
        "temperature": 0,
        "stream": true,
        "ignore_eos": true,
    });
    let url = format!("{}/v1/chat/completions", fleet.url);
    let response = ureq::post(&url)
        .header("content-type", "application/json")
        .send(request.to_string())
        .with_context(|| format!("{url} does not answer"))?;
    let mut answer = Answer { arrived, first: None, last: None, tokens: 0 };
    let mut tokens = Vec::new();
    for line in std::io::BufReader::new(response.into_body().into_reader()).lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
        let now = fleet.began.elapsed();
        if now >= until {
            break;
        }
        let chunk: Value = serde_json::from_str(data).context("the peer streams no JSON")?;
        if chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()) {
            tokens.push(now);
            answer.first.get_or_insert(now);
            answer.last = Some(now);
            answer.tokens += 1;
        }
    }
    Ok((answer, tokens))
}
