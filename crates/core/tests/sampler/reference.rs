//! The definition, by sorting everything and with the platform's logarithms and exponentials in double precision.

use sled_core::Token;
use sled_core::sampler::{Context, SamplingParams};

pub(super) struct Answer {
    pub(super) token: Token,
    pub(super) confidence: f64,
    /// By token; infinite for those that cannot be chosen.
    pub(super) shortfalls: Vec<f64>,
}

/// `None` where a truncation falls so close to a token that the rounding of exponentials decides.
pub(super) fn answer(logits: &[f32], context: Context<'_>, params: &SamplingParams) -> Option<Answer> {
    let logits = penalised(logits, context, params);
    let mut order: Vec<usize> = (0..logits.len()).filter(|&i| logits[i] > f64::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let mut shortfalls = vec![f64::INFINITY; logits.len()];
    let Some(&best) = order.first() else {
        shortfalls.iter_mut().take(1).for_each(|shortfall| *shortfall = 0.0);
        return Some(Answer { token: 0, confidence: 0.0, shortfalls });
    };
    let greedy = params.temperature == 0.0;
    let temperature = if greedy { 1.0 } else { f64::from(params.temperature) };
    if !greedy {
        let (least, most) = (kept(&order, &logits, params, 1e-6), kept(&order, &logits, params, -1e-6));
        if least != most {
            return None;
        }
        order.truncate(least);
    }
    let score = |i: usize| match greedy {
        true => logits[i],
        false => logits[i] / temperature + gumbel(params.seed, context.tokens.len(), i),
    };
    let mut winner = best;
    for &i in &order {
        if score(i) > score(winner) || (score(i) == score(winner) && i < winner) {
            winner = i;
        }
    }
    for &i in &order {
        shortfalls[i] = (score(winner) - score(i)) * temperature;
    }
    let weight = |i: usize| ((logits[i] - logits[best]) / temperature).exp();
    let confidence = weight(winner) / order.iter().map(|&i| weight(i)).sum::<f64>();
    Some(Answer { token: winner as Token, confidence, shortfalls })
}

fn penalised(logits: &[f32], context: Context<'_>, params: &SamplingParams) -> Vec<f64> {
    let generated = context.tokens.get(context.prompt_len..).unwrap_or(&[]);
    let penalised = |(i, &logit): (usize, &f32)| {
        let mut logit = logit;
        let count = |tokens: &[Token]| tokens.iter().filter(|&&token| token as usize == i).count();
        if count(context.tokens) > 0 {
            let penalty = params.repetition_penalty;
            logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
        }
        if count(generated) > 0 {
            logit -= params.presence_penalty;
        }
        for _ in 0..count(generated) {
            logit -= params.frequency_penalty;
        }
        for &(token, bias) in &params.logit_bias {
            logit += if token as usize == i { bias } else { 0.0 };
        }
        if logit.is_nan() { f64::NEG_INFINITY } else { f64::from(logit.min(f32::MAX)) + 0.0 }
    };
    logits.iter().enumerate().map(penalised).collect()
}

/// How many of the best tokens the truncations leave, if each boundary is moved by `slack`.
fn kept(order: &[usize], logits: &[f64], params: &SamplingParams, slack: f64) -> usize {
    let mut kept = order.len();
    if params.top_k > 0 {
        kept = kept.min(params.top_k as usize);
    }
    let weight = |&i: &usize| (logits[i] - logits[order[0]]).exp();
    if params.top_p < 1.0 {
        let total: f64 = order[..kept].iter().map(weight).sum();
        let goal = (f64::from(params.top_p) - slack) * total;
        let mut sum = 0.0;
        let reached = order[..kept].iter().position(|i| {
            sum += weight(i);
            sum >= goal
        });
        kept = reached.map_or(kept, |last| last + 1);
    }
    if params.min_p > 0.0 {
        let floor = f64::from(params.min_p) * (1.0 + slack);
        let likely = |i: &&usize| weight(i) >= floor || logits[**i] == logits[order[0]];
        kept = kept.min(order.iter().take_while(likely).count());
    }
    kept
}

fn gumbel(seed: u64, position: usize, token: usize) -> f64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let key = mix(mix(seed.wrapping_add(STEP)).wrapping_add(STEP.wrapping_mul(position as u64)));
    let hash = mix(key.wrapping_add(STEP.wrapping_mul(token as u64)));
    let uniform = ((hash >> 12) as f64 + 0.5) / 2_f64.powi(52);
    -(-uniform.ln()).ln()
}
