//! What is said to a process that renders: a request a line, answered with a line.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ChatTemplate, Extras, TemplateSource};
use crate::Error;
use crate::workers::{Workers, WorkersConfig};

/// A template to compile, and to render if there is a chat.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request<'a> {
    pub(super) template: Cow<'a, TemplateSource>,
    pub(super) chat: Option<Chat<'a>>,
}

/// What is to be rendered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Chat<'a> {
    pub(super) messages: Cow<'a, [Value]>,
    pub(super) extras: Cow<'a, Extras>,
    pub(super) add_generation_prompt: bool,
}

/// The prompt, or what is wrong with the template or the messages.
pub(super) type Answer = Result<String, String>;

/// Renders what [`super::Renderer::in_processes`] asks for: takes each of `requests`, one JSON text each, and writes a line to
/// `answers`.
///
/// # Errors
/// If an answer cannot be written, or a request makes the thread that works on it panic.
pub fn answer_requests(requests: impl IntoIterator<Item = String>, mut answers: impl Write) -> Result<(), Error> {
    // A thread with a large stack, which gives its memory back.
    let workers = Workers::new(WorkersConfig { threads: 1, ..WorkersConfig::default() });
    let mut compiled = None;
    for request in requests {
        let (answer, kept) = workers.run_blocking(move || answer(&request, compiled))?;
        compiled = kept;
        let write = serde_json::to_string(&answer).map_err(io::Error::from).and_then(|answer| {
            writeln!(answers, "{answer}")?;
            answers.flush()
        });
        write.map_err(Error::Renderer)?;
    }
    Ok(())
}

/// A template that is kept for the next request.
type Compiled = Option<(TemplateSource, ChatTemplate)>;

fn answer(request: &str, compiled: Compiled) -> (Answer, Compiled) {
    let request: Request = match serde_json::from_str(request) {
        Ok(request) => request,
        Err(error) => {
            return (Err(format!("the messages cannot be passed on ({error}); nest them less deeply")), compiled);
        }
    };
    let known = compiled.filter(|(source, _)| *source == *request.template).map(|(_, template)| Ok(template));
    let template = match known.unwrap_or_else(|| ChatTemplate::compile(&request.template)) {
        Ok(template) => template,
        Err(error) => return (Err(reason(error)), None),
    };
    let rendered = request.chat.map_or_else(
        || Ok(String::new()),
        |chat| template.render_with(&chat.messages, &chat.extras, chat.add_generation_prompt),
    );
    (rendered.map_err(reason), Some((request.template.into_owned(), template)))
}

/// Whoever asked says that it is the template's.
fn reason(error: Error) -> String {
    match error {
        Error::ChatTemplate(reason) => reason,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;

    /// What becomes of requests, each a template and the text of a message.
    fn answered(requests: &[(&str, Value)]) -> Vec<Answer> {
        let lines = requests.iter().map(|(source, content)| {
            let template =
                TemplateSource { source: (*source).to_owned(), bos: "<s>".to_owned(), eos: "</s>".to_owned() };
            let messages = [json!({ "role": "user", "content": content })];
            let extras = Extras { tools: vec![json!({ "z": 1.5, "a": 0.1 })], variables: serde_json::Map::new() };
            let (messages, extras) = (Cow::Borrowed(&messages[..]), Cow::Borrowed(&extras));
            let chat = Some(Chat { messages, extras, add_generation_prompt: true });
            let request = Request { template: Cow::Borrowed(&template), chat };
            serde_json::to_string(&request).unwrap()
        });
        let mut answers = Vec::new();
        answer_requests(lines, &mut answers).unwrap();
        let answers = String::from_utf8(answers).unwrap();
        answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_template_is_rendered_as_it_is_in_the_process_that_asks() {
        let all =
            "{{ bos_token }}{{ messages[0].content }}{{ tools | tojson }}{{ add_generation_prompt }}{{ eos_token }}";
        let odd = "\"\n\u{2028}\u{0}\u{e000}é\u{1f980}</s>";
        let said = format!("<s>{odd}[{{\"z\": 1.5, \"a\": 0.1}}]True</s>");
        let answers = answered(&[(all, json!(odd)), ("{% if %}", json!("a")), (all, json!(odd)), (all, json!("b"))]);
        assert_eq!((&answers[0], &answers[2]), (&Ok(said.clone()), &Ok(said)));
        assert!(answers[1].as_ref().unwrap_err().ends_with("in line 1"), "{answers:?}");
        assert!(answers[3].as_ref().unwrap().starts_with("<s>b["), "{answers:?}");
    }

    #[test]
    fn a_refusal_is_in_the_templates_own_words_and_the_next_is_answered() {
        let source = "{{ raise_exception('Not a.') if messages[0].content == 'a' else 'b' }}";
        let answers = answered(&[(source, json!("a")), (source, json!("b"))]);
        assert_eq!(answers, [Err("Not a.".to_owned()), Ok("b".to_owned())]);
    }

    #[test]
    fn messages_that_are_nested_too_deeply_are_refused_in_one_sentence() {
        let deep = (0..200).fold(json!(1), |value, _| json!([value]));
        let answers = answered(&[("a", deep), ("a", json!("b"))]);
        let sentence = answers[0].as_ref().unwrap_err();
        assert!(sentence.ends_with("nest them less deeply") && sentence.lines().count() == 1, "{sentence}");
        assert_eq!(answers[1], Ok("a".to_owned()));
    }
}
