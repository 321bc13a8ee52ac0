//! What in the header of a model file would make llama.cpp end the process, found before it sees the file.

use std::collections::HashSet;

use super::charsmap;
use super::ffi::Gguf;

/// The most layers, and the most experts in a layer, that llama.cpp has room for (`LLAMA_MAX_LAYERS`, `LLAMA_MAX_EXPERTS`).
const MAX_LAYERS: u64 = 512;
const MAX_EXPERTS: u64 = 1024;

/// Architectures that llama.cpp takes to have experts without looking.
const ALWAYS_EXPERTS: [&str; 5] = ["bailingmoe2", "glm4moe", "grovemoe", "llada-moe", "smallthinker"];

/// What tensors are aligned to in memory, in bytes (`TENSOR_ALIGNMENT`).
const ALIGNMENT: u64 = 32;

/// What is wrong with `header`, as a part of a sentence.
pub(super) fn defect(header: &Gguf) -> Option<&'static str> {
    let architecture = header.text("general.architecture").unwrap_or_default();
    let of_model = Keys { header, architecture: &architecture };
    if header.numbers("general.alignment").is_some_and(|bytes| bytes.iter().any(|&bytes| bytes < ALIGNMENT)) {
        return Some("its tensors are not aligned");
    }
    layers(&of_model).or_else(|| experts(&of_model)).or_else(|| numbers(&of_model)).or_else(|| vocabulary(header))
}

/// The keys of a model's own architecture.
struct Keys<'a> {
    header: &'a Gguf,
    architecture: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// The largest of the numbers that `key` stands for, one or one for each layer.
    fn most(&self, key: &str) -> Option<u64> {
        self.header.numbers(&self.name(key))?.into_iter().max()
    }
}

fn layers(keys: &Keys) -> Option<&'static str> {
    let layers = keys.most("block_count")?;
    if !(1..=MAX_LAYERS).contains(&layers) {
        return Some("it has no layers, or more than 512");
    }
    let parts = ["nextn_predict_layers", "posnet.block_count", "convnext.block_count"];
    let exceeds = |part| keys.most(part).is_some_and(|part| part > layers);
    parts.into_iter().any(exceeds).then_some("some of its layers are more than all")
}

fn experts(keys: &Keys) -> Option<&'static str> {
    let number = |key| keys.most(key).unwrap_or(0);
    let (experts, used) = (number("expert_count"), number("expert_used_count"));
    let (groups, groups_used) = (number("expert_group_count"), number("expert_group_used_count"));
    if keys.architecture.starts_with("hunyuan") && experts <= 1 {
        // llama.cpp takes it for one without experts.
        return None;
    }
    let grouped = groups <= 1 || (experts % groups == 0 && (1..groups).contains(&groups_used));
    let fits = match experts {
        0 => used == 0 && groups == 0 && !ALWAYS_EXPERTS.contains(&keys.architecture),
        _ => experts <= MAX_EXPERTS && (1..=experts).contains(&used) && groups < experts && grouped,
    };
    (!fits).then_some("its numbers of experts do not fit each other")
}

fn numbers(keys: &Keys) -> Option<&'static str> {
    let scaling = keys.header.text(&keys.name("rope.scaling.type"));
    if scaling.is_some_and(|scaling| !["none", "linear", "yarn", "longrope"].contains(&scaling.as_str())) {
        return Some("its positions are scaled in a way that is not known");
    }
    let epsilons = ["layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon"];
    let epsilon = |key| keys.header.float(&keys.name(&format!("attention.{key}")));
    let wrong = epsilons.into_iter().filter_map(epsilon).any(|epsilon| epsilon.is_nan() || epsilon < 0.0);
    wrong.then_some("the epsilon of its norms is no number, or less than 0")
}

fn vocabulary(header: &Gguf) -> Option<&'static str> {
    match header.text("tokenizer.ggml.model").as_deref() {
        Some("bert") => return Some("its tokeniser is one for encoders"),
        Some("rwkv") => return Some("its tokeniser is one for recurrent models"),
        _ => {}
    }
    if header.bytes("tokenizer.ggml.precompiled_charsmap").is_some_and(|table| charsmap::leads_astray(&table)) {
        return Some("the table of characters that its tokeniser replaces is broken");
    }
    let pieces = header.texts("tokenizer.ggml.tokens")?;
    let mut seen = HashSet::with_capacity(pieces.len());
    // llama.cpp gives a name to those that are empty.
    let named = |(i, piece): (usize, Vec<u8>)| if piece.is_empty() { format!("[EMPTY_{i}]").into() } else { piece };
    let twice = !pieces.into_iter().enumerate().map(named).all(|piece| seen.insert(piece));
    twice.then_some("two of its tokens are the same")
}
