//! What is compiled or read before anything is generated: grammars, chat templates, files of vocabularies.

use std::sync::LazyLock;

use sled_core::sampler::Grammar;
use sled_llama::load_vocabulary;
use sled_model::chat::{ChatTemplate, Message, Renderer, TemplateSource};
use sled_model::grammar::Compiler;
use sled_model::workers::Workers;

/// Compiles the text in `data` as a grammar of the kind that its first byte says.
///
/// # Panics
/// If a worker does, as it must not on any input.
pub fn grammar(data: &[u8]) {
    static COMPILER: LazyLock<Compiler> =
        LazyLock::new(|| Compiler::with_pieces(&[256], || (0..=255).map(|byte| vec![byte]).chain([vec![]]).collect()));
    let Some((kind, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text).into_owned();
    let kind = *kind;
    let compiled = Workers::shared().run_blocking(move || {
        let grammar = match kind % 3 {
            0 => Grammar::json_schema(&text),
            1 => Grammar::lark(&text),
            _ => Grammar::regex(&text),
        };
        COMPILER.compile(&grammar).is_ok()
    });
    assert!(compiled.is_ok(), "{compiled:?}");
}

/// Compiles the chat template in `data`, up to its first zero byte, and renders what follows as a message.
///
/// # Panics
/// If a worker does, or makes more of it than it may.
pub fn template(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    let (source, content) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let rendered = Workers::shared().run_blocking(move || {
        let messages = [Message { role: "user".to_owned(), content }];
        ChatTemplate::new(&source, "<s>", "</s>").and_then(|template| template.render(&messages, true))
    });
    if let Ok(prompt) = rendered.expect("nothing panics") {
        assert!(prompt.len() <= 3 * ChatTemplate::LONGEST_PROMPT, "{} bytes", prompt.len());
    }
}

/// Loads `data` as a file with a vocabulary, and tokenises with it.
///
/// # Panics
/// If a piece of the vocabulary cannot be had. The engine must not end the process either.
pub fn header(data: &[u8]) {
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let path = folder.path().join("fuzzed.gguf");
    std::fs::write(&path, data).expect("a file can be written");
    if let Ok(vocab) = load_vocabulary(&path) {
        let _tokens = vocab.tokenize("The <|im_end|> fox \u{e9}\u{1f98a}\n\n  12", true, true);
        let _template = TemplateSource::of(&vocab).map(|source| Renderer::in_process().compile(source));
    }
}
