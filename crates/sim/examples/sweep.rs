#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]
//! x
use sled_core::device::Ahead;
use sled_core::policy::Policy;
use sled_core::server::{Assist, Batching};
use sled_sim::cost::StepCost;
use sled_sim::experiment::{self, Regime};
use sled_sim::recording::Recording;
use sled_sim::replay::Replay;
use std::time::Duration;
fn main() {
    let replay = Replay::new(&Recording::load(std::path::Path::new("data/drafts.json")).unwrap());
    let ms = |x: f64| Duration::from_secs_f64(x / 1e3);
    let policies: Vec<String> = std::env::args().skip(1).collect();
    let policies = if policies.is_empty() {
        vec!["goodput".into(), "confidence:0.5:8".into(), "fixed:4".into()]
    } else {
        policies
    };
    for (name, cost, draft, rtt, ns) in [
        ("CPU F16 d20 r1", (118.0, 17.0), 20.0, 1.0, vec![1, 2, 4, 8, 16, 32]),
        ("CPUs F16 d200 r1", (118.0, 17.0), 200.0, 1.0, vec![1, 2, 4, 8, 16, 32]),
        ("CPU Q4 d20 r1", (40.0, 35.0), 20.0, 1.0, vec![1, 2, 4, 8, 16, 32]),
        ("GPU70 d5 r20", (29.0, 0.17), 5.0, 20.0, vec![1, 2, 8, 32, 64, 128]),
        ("CPUfar r200", (118.0, 17.0), 20.0, 200.0, vec![1, 2, 8]),
        ("GPUfar r100", (29.0, 0.17), 5.0, 100.0, vec![1, 2, 8, 32]),
        ("GPUvfar r400", (29.0, 0.17), 5.0, 400.0, vec![1, 8]),
        ("GPU70 d20 r20", (29.0, 0.17), 20.0, 20.0, vec![1, 2, 8, 32, 64, 128]),
        ("GPU70 d70 r20", (29.0, 0.17), 70.0, 20.0, vec![1, 2, 8, 32, 64, 128]),
    ]
    .into_iter()
    .filter(|c| std::env::var("ONLY").map_or(true, |o| o.split(",").any(|o| c.0.starts_with(o))))
    {
        println!("{name}");
        let mut rows: Vec<Vec<String>> = vec![vec![]; policies.len() + 1];
        for &n in &ns {
            let outputs = if n == 1 {
                30
            } else if n < 32 {
                10
            } else {
                6
            };
            let r = Regime {
                cost: StepCost::from_millis(cost.0, cost.1),
                draft_time: ms(draft),
                rtt: ms(rtt),
                devices: n,
                outputs,
                batching: Batching::Continuous,
                assist: Assist::Auto,
                rate_goal: None,
            };
            let base = experiment::run(&replay, &r, None, Ahead::Blocks, 1).unwrap();
            rows[0].push(format!("{:>7.1} {:.2}", base.tokens_per_s, base.rows_per_token));
            for (i, p) in policies.iter().enumerate() {
                let mut it = p.split('/');
                let p: Policy = it.next().unwrap().parse().unwrap();
                let mut r = r.clone();
                if let Some(a) = it.next() {
                    r.assist = a.parse().unwrap();
                }
                let f = experiment::run(&replay, &r, Some(p), Ahead::Blocks, 1).unwrap();
                rows[i + 1].push(format!("{:>7.3} {:.2}", f.tokens_per_s / base.tokens_per_s, f.rows_per_token));
            }
        }
        for (i, r) in rows.iter().enumerate() {
            println!("  {:20} {}", if i == 0 { "thin tok/s" } else { &policies[i - 1] }, r.join("  "));
        }
    }
}
