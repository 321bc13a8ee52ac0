//! Clients of an OpenAI-compatible server: the peer that SLED is measured beside.

use std::io::BufRead;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use sled_sim::figures::Answer;
use sled_sim::load::Schedule;

use super::fleet::{self, Fleet, Task};
use super::seen::{Seen, Stop};

/// One client asks until it is told to stop.
pub async fn client(fleet: Fleet, index: usize, mut stop: Stop) -> anyhow::Result<Seen> {
    let mut schedule = Schedule::new(fleet.arrivals, fleet.seed, index);
    let mut seen = Seen::default();
    for turn in 0.. {
        let arrived = schedule.next(fleet.began.elapsed());
        tokio::select! {
            () = tokio::time::sleep_until((fleet.began + arrived).into()) => {}
            () = stop.wait() => break,
        }
        let (fleet, stop) = (fleet.clone(), stop.clone());
        seen.asked(arrived);
        let asked = tokio::task::spawn_blocking(move || {
            let answered = ask(&fleet, fleet::task(&fleet.tasks, index, turn), arrived, &stop, &mut seen);
            answered.map(|()| seen)
        });
        seen = asked.await??;
    }
    Ok(seen)
}

/// The same prompt, the same length, temperature 0.
fn ask(fleet: &Fleet, task: &Task, arrived: Duration, stop: &Stop, seen: &mut Seen) -> anyhow::Result<()> {
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
    for line in std::io::BufReader::new(response.into_body().into_reader()).lines() {
        let line = line?;
        if stop.is_now() {
            return Ok(());
        }
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
        let now = fleet.began.elapsed();
        let chunk: Value = serde_json::from_str(data).context("the peer streams no JSON")?;
        if chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()) {
            if seen.token(now) {
                // Nobody may wait for it any more.
                let _gone = fleet.started.send(());
            }
            answer.first.get_or_insert(now);
            answer.last = Some(now);
            answer.tokens += 1;
        }
    }
    seen.log.answers.push(answer);
    Ok(())
}
