//! Chat templates: messages to the prompt that a model was trained on.
//!
//! Templates come with models and from servers, and are programs: what they may take is bounded, by fuel, and by the processes that
//! a [`Renderer`] may have for them.
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | compiles and renders |
//! | `functions.rs`, `tags.rs` | what templates expect beside the engine's own functions and tags |
//! | `renderer.rs` | does it here or in other processes |
//! | `pool.rs` | those processes, each of which can be killed |
//! | `protocol.rs` | what is said to them, and their part |

mod functions;
mod pool;
mod protocol;
mod renderer;
mod tags;

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
pub use protocol::answer_requests;
pub use renderer::{Renderer, Template};
use serde::{Deserialize, Serialize};
use sled_core::Token;

use crate::Error;
use crate::vocabulary::Vocab;

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it: `system`, `user` or `assistant`, and whatever else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// The most bytes of what a template says of messages that it refuses.
const LONGEST_REASON: usize = 500;

/// What is said of a template that is stopped.
const TOO_LONG: &str = "it takes too long; shorten the messages";

/// A chat template as it comes with a model: not compiled yet, and not to be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateSource {
    /// The template, in Jinja.
    pub source: String,
    /// How the vocabulary spells its begin token; empty if it has none.
    pub bos: String,
    /// How the vocabulary spells its end token; empty if it has none.
    pub eos: String,
}

impl TemplateSource {
    /// The chat template of a vocabulary; `None` if it has none.
    #[must_use]
    pub fn of(vocab: &Vocab) -> Option<Self> {
        let spelt = |token: Option<Token>| {
            let piece = token.map(|token| vocab.piece(token, true)).unwrap_or_default();
            String::from_utf8_lossy(&piece).into_owned()
        };
        let source = vocab.chat_template()?.to_owned();
        Some(Self { source, bos: spelt(vocab.bos()), eos: spelt(vocab.eos()) })
    }
}

/// A chat template in Jinja, as the `transformers` library renders them, in this process. Compiling one and rendering with it
/// recurse as deep as it is nested, and belong on [workers](crate::workers::Workers).
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    const NAME: &'static str = "chat";

    /// The most bytes that a template may have.
    pub const LONGEST_SOURCE: usize = 64 << 10;

    /// The most bytes that it may make of messages.
    pub const LONGEST_PROMPT: usize = 16 << 20;

    /// What one rendering may take: a unit for each step, and for each 64 bytes that are made or looked at on the way.
    const FUEL: u64 = 2_000_000;

    /// Compiles the template `source`; `bos` and `eos` are how the vocabulary spells its begin and end tokens.
    ///
    /// # Errors
    /// If the template is not valid, or too long.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        let (len, most) = (source.len(), Self::LONGEST_SOURCE);
        if len > most {
            return Err(Error::ChatTemplate(format!("it has {len} bytes, and at most {most} are allowed")));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| refused(&error))?);
        environment.set_fuel(Some(Self::FUEL));
        functions::add(&mut environment);
        let source = tags::read(source).map_err(Error::ChatTemplate)?;
        environment.add_template_owned(Self::NAME, source).map_err(|error| refused(&error))?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    pub(crate) fn compile(template: &TemplateSource) -> Result<Self, Error> {
        Self::new(&template.source, &template.bos, &template.eos)
    }

    /// The prompt for `messages`, each of them a map of `role`, `content` and whatever else the template knows; with
    /// `add_generation_prompt`, up to where the assistant's next message begins.
    ///
    /// The names of the template's control tokens appear in it, so it is to be tokenised with `parse_special`, and
    /// with `add_special` only if it does not begin with the begin token already.
    ///
    /// # Errors
    /// If the template refuses the messages, as many do when roles do not alternate.
    pub fn render<M: Serialize>(&self, messages: &[M], add_generation_prompt: bool) -> Result<String, Error> {
        self.render_with(messages, &Extras::default(), add_generation_prompt)
    }

    /// As [`Self::render`], with what else a template may be told.
    ///
    /// # Errors
    /// If the template refuses the messages.
    pub fn render_with<M: Serialize>(
        &self,
        messages: &[M],
        extras: &Extras,
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let template = self.environment.get_template(Self::NAME).map_err(|error| refused(&error))?;
        let messages = Value::from(Serde(messages));
        let tools = (!extras.tools.is_empty()).then(|| Value::from(Serde(&extras.tools)));
        let (bos_token, eos_token) = (self.bos.as_str(), self.eos.as_str());
        let documents = Value::from(());
        let values = context! {
            messages, tools, documents, add_generation_prompt, bos_token, eos_token,
            ..Value::from(Serde(&extras.variables))
        };
        let mut prompt = Prompt::default();
        let rendered = template.render_captured_to(values, &mut prompt).map(drop);
        if prompt.is_full {
            let most = Self::LONGEST_PROMPT;
            return Err(Error::ChatTemplate(format!("it makes more than {most} bytes of the messages; shorten them")));
        }
        rendered.map_err(|error| refused(&error))?;
        Ok(String::from_utf8_lossy(&prompt.bytes).into_owned())
    }
}

/// Takes what a template makes, up to [`ChatTemplate::LONGEST_PROMPT`].
#[derive(Default)]
struct Prompt {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for Prompt {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + more.len() > ChatTemplate::LONGEST_PROMPT {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a template may be told beside the messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Extras {
    /// The tools that the model may call, each as OpenAI's API describes it.
    pub tools: Vec<serde_json::Value>,
    /// Variables of the template's own, such as `enable_thinking`.
    pub variables: serde_json::Map<String, serde_json::Value>,
}

/// The sentence of a template's error: what the template itself says, if it does.
fn refused(error: &minijinja::Error) -> Error {
    let mut sentence = match (error.detail(), error.line()) {
        _ if error.kind() == ErrorKind::OutOfFuel => TOO_LONG.to_owned(),
        (Some(detail), Some(line)) if error.kind() == ErrorKind::SyntaxError => format!("{detail} in line {line}"),
        (Some(detail), _) => detail.to_owned(),
        (None, _) => error.to_string(),
    };
    sentence.truncate(sentence.floor_char_boundary(LONGEST_REASON));
    Error::ChatTemplate(sentence)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const CHATML: &str = "\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == \"user\") or (message.role == \"assistant\" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content.strip() + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

    const ALTERNATING: &str = "\
{{ bos_token }}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant') }}
    {% endif %}
    {% if message['role'] == 'user' %}
[INST] {{ message['content'] }} [/INST]
    {% else %}
{{ message['content'] }}{{ eos_token }}
    {% endif %}
{% endfor %}";

    fn messages(list: &[(&str, &str)]) -> Vec<Message> {
        list.iter().map(|&(role, content)| Message { role: role.to_owned(), content: content.to_owned() }).collect()
    }

    #[test]
    fn chatml_renders_as_the_model_was_trained() {
        let template = ChatTemplate::new(CHATML, "<s>", "</s>").unwrap();
        let chat = messages(&[("user", " Hi \n"), ("assistant", "Hello!"), ("user", "Bye")]);
        let system = "<|im_start|>system\nYou are helpful.<|im_end|>\n";
        let turns = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n\
                     <|im_start|>user\nBye<|im_end|>\n";
        assert_eq!(template.render(&chat, false).unwrap(), format!("{system}{turns}"));
        assert_eq!(template.render(&chat, true).unwrap(), format!("{system}{turns}<|im_start|>assistant\n"));
    }

    #[test]
    fn a_system_message_replaces_the_default_one() {
        let template = ChatTemplate::new(CHATML, "", "").unwrap();
        let prompt = template.render(&messages(&[("system", "Be brief."), ("user", "Hi")]), false).unwrap();
        assert_eq!(prompt, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
    }

    #[test]
    fn block_lines_leave_no_white_space() {
        let template = ChatTemplate::new(ALTERNATING, "<s>", "</s>").unwrap();
        let prompt = template.render(&messages(&[("user", "a"), ("assistant", "b")]), false).unwrap();
        assert_eq!(prompt, "<s>\n[INST] a [/INST]\nb</s>\n");
    }

    #[test]
    fn a_template_refuses_messages_in_its_own_words() {
        let template = ChatTemplate::new(ALTERNATING, "<s>", "</s>").unwrap();
        let error = template.render(&messages(&[("user", "a"), ("user", "b")]), false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model's chat template cannot be used: Conversation roles must alternate user/assistant"
        );
    }

    #[test]
    fn an_invalid_template_is_refused_when_it_is_compiled() {
        let error = ChatTemplate::new("a\n{% if %}", "", "").unwrap_err();
        assert!(error.to_string().ends_with("in line 2"), "{error}");
    }

    #[test]
    fn content_is_inserted_as_it_is() {
        let template = ChatTemplate::new("{{ messages[0].content }}", "", "").unwrap();
        let content = "<b>{{ bos_token }}</b> & \u{e9}\u{1f980}\n";
        assert_eq!(template.render(&messages(&[("user", content)]), false).unwrap(), content);
    }

    #[test]
    fn the_date_follows_the_format() {
        let template = ChatTemplate::new("{{ strftime_now('%d %b %Y') }}", "", "").unwrap();
        let date = template.render::<Message>(&[], false).unwrap();
        assert!(jiff::civil::Date::strptime("%d %b %Y", &date).is_ok(), "{date}");
    }

    #[test]
    fn tools_are_written_as_python_writes_them_and_in_their_own_order() {
        let source = "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{{ messages[0].tool_calls[0].arguments | tojson }}\
                      {% if documents is none and thinking %}!{% endif %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        let tool =
            serde_json::json!({ "type": "function", "function": { "name": "<f>", "arguments": [1, 2.0, null] } });
        let extras = Extras {
            tools: vec![tool],
            variables: serde_json::json!({ "thinking": true }).as_object().unwrap().clone(),
        };
        let message =
            serde_json::json!({ "role": "assistant", "tool_calls": [{ "arguments": { "z": 1, "a": "\u{e9}" } }] });
        assert_eq!(
            template.render_with(&[message], &extras, false).unwrap(),
            "{\"type\": \"function\", \"function\": {\"name\": \"<f>\", \"arguments\": [1, 2.0, null]}}\n\
             {\"z\": 1, \"a\": \"\u{e9}\"}!"
        );
    }

    #[test]
    fn without_tools_a_template_is_told_none() {
        let template = ChatTemplate::new("{{ tools is none }} {{ [1] | tojson(indent=2) }}", "", "").unwrap();
        assert_eq!(template.render::<Message>(&[], false).unwrap(), "True [\n  1\n]");
    }

    /// What becomes of a template on a worker.
    fn rendered(source: &str) -> Result<String, String> {
        let source = source.to_owned();
        let work = move || {
            let template = ChatTemplate::new(&source, "", "")?;
            template.render(&messages(&[("user", "Hi")]), true)
        };
        let done = crate::workers::Workers::shared().run_blocking(work).expect("the process goes on");
        done.map_err(|error| error.to_string())
    }

    #[test]
    fn templates_that_run_or_grow_without_end_are_stopped_in_one_sentence() {
        let doubled =
            "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
        let cases = [
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
            "{% for a in range(99999) %}{{ 'a' * 4000 }}{% endfor %}".to_owned(),
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
            "{{ 'a' * 3000000000 }}".to_owned(),
            "{{ ('a\n' * 100000) | indent(1000000) }}".to_owned(),
            "{{ [1] | batch(1000000000, 0) | list }}".to_owned(),
            "{{ ('a' * 1000000) | replace('a', 'a' * 1000000) }}".to_owned(),
            "{{ ('a' * 1000000).replace('a', 'a' * 1000000) }}".to_owned(),
            "{{ ('a' * 1000000).replace('', 'a' * 1000000) }}".to_owned(),
            "{{ ('a' * 1000000).join('a' * 1000000) }}".to_owned(),
            "{{ '%1000000000d' | format(1) }}".to_owned(),
            "{{ '{:1000000000}'.format(1) }}".to_owned(),
            "{{ range(99999) | map('string') | join('a' * 99999) }}".to_owned(),
            format!("{doubled}{{{{ ns.x | tojson }}}}"),
            format!("{doubled}{{{{ ns.x }}}}"),
            format!("{doubled}{{{{ ''.join(ns.x) }}}}"),
        ];
        for source in cases {
            let sentence = rendered(&source).expect_err(&source);
            assert!(sentence.starts_with("the model's chat template cannot be used: "), "{sentence}");
            assert!(sentence.lines().count() == 1 && sentence.len() < 600, "{sentence}");
        }
    }

    #[test]
    fn templates_may_go_as_deep_as_they_are_long() {
        let most = 4000;
        for (one, of) in [
            ("a+", "a"),
            ("a~", "a"),
            ("a|", "upper"),
            ("a and ", "a"),
            ("a.", "a"),
            ("not ", "a"),
            ("-", "1"),
            ("a if a else ", "a"),
            ("a(", "a"),
            ("[", "1"),
            ("(", "1"),
        ] {
            let chain = one.repeat(most / one.len());
            let _any = rendered(&format!("{{{{ {chain}{of} }}}}"));
            let _any = rendered(&format!("{{% if {chain}{of} %}}{{% endif %}}"));
        }
        for (one, of) in [
            ("{% if a %}", "{% endif %}"),
            ("{% if a %}{% elif b %}{% else %}", "{% endif %}"),
            ("{% for a in b %}", "{% endfor %}"),
            ("{% with %}", "{% endwith %}"),
        ] {
            let levels = (ChatTemplate::LONGEST_SOURCE - 64) / (one.len() + of.len());
            let _any = rendered(&format!("{}{}", one.repeat(levels), of.repeat(levels)));
        }
        let elifs = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(5000));
        let _any = rendered(&elifs);
        // Values that hold each other.
        let nested = "{% set ns = namespace(x=1, y=1) %}{% for a in range(300) %}{% for b in range(300) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{% endfor %}";
        for end in ["", "{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == ns.y }}", "{{ ns.x in [ns.y] }}"] {
            let _any = rendered(&format!("{nested}{end}"));
        }
        let deepest = "{% set ns = namespace(x=1) %}{% for a in range(450) %}{% for b in range(450) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";
        for end in ["", "{{ ns.x }}", "{{ ns.x | tojson }}"] {
            let _any = rendered(&format!("{deepest}{end}"));
        }
        let error = ChatTemplate::new(&"a".repeat(ChatTemplate::LONGEST_SOURCE + 1), "", "").unwrap_err();
        assert!(error.to_string().contains("at most 65536"), "{error}");
    }

    #[test]
    fn nothing_is_not_iterable_as_in_python() {
        let source = "{{ none is iterable }} {{ [] is iterable }} {{ 'a' is iterable }} {{ {} is iterable }} {{ 1 is iterable }} {{ nonsense is iterable }}";
        assert_eq!(rendered(source).unwrap(), "False True True True False True");
        let tools = "{% if tools is iterable and tools | length > 0 %}tools{% endif %}{% if not (tools is iterable) %}none{% endif %}";
        assert_eq!(rendered(tools).unwrap(), "none");
    }

    #[test]
    fn what_the_assistant_says_may_be_marked() {
        let source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
        assert_eq!(rendered(source).unwrap(), "Hi");
        let source =
            "{%- for m in messages %}\n  {%- generation -%}\n  {{ m.content }}\n  {%- endgeneration %}\n{%- endfor %}";
        assert_eq!(rendered(source).unwrap(), "Hi");
    }
}
