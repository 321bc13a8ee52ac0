//! Grammars that force tool calls.

use serde_json::{Value, json};
use sled_core::sampler::GrammarText;
use sled_model::grammar::bound_white_space;

use crate::tools::{CLOSE, OPEN};

/// A tool that may be called.
#[derive(Clone, Debug)]
pub(crate) struct Callable {
    /// Its name.
    pub(crate) name: String,
    /// The JSON schema of its arguments.
    pub(crate) parameters: Value,
}

/// What an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Text, or calls.
    Auto,
    /// At least one call.
    Required,
}

/// The grammar of an answer that may call `tools`, and only one of them if not `parallel`. `content` is what an answer must
/// look like that calls none. With `marked`, control tokens mark calls, and not text.
pub(crate) fn of_calls(
    tools: &[Callable],
    choice: Choice,
    parallel: bool,
    marked: bool,
    content: Option<&GrammarText>,
) -> GrammarText {
    let quoted = |mark: &str| if marked { mark.to_owned() } else { format!("\"{mark}\"") };
    let (open, close) = (quoted(OPEN), quoted(CLOSE));
    let more = if parallel { " (\"\\n\" call)*" } else { "" };
    let start = match (choice, content) {
        (Choice::Required, _) => format!("start: call{more}\n"),
        (Choice::Auto, Some(content)) => format!("start: call{more} | content\n{}", as_rule(content)),
        // Text is free until a call is opened in it.
        (Choice::Auto, None) if marked => {
            format!("start: TEXT | TEXT {open} rest{more}\nTEXT: /(?s:.*)/\n")
        }
        (Choice::Auto, None) => format!(
            "start: TEXT | opened rest{more}\n\
             TEXT: /(?s:.*)/ & ~/(?s:.*){OPEN}(?s:.*)/\n\
             opened[suffix={open}]: /(?s:.*)/\n"
        ),
    };
    let mut lark = format!("{start}call: {open} rest\nrest: \"\\n\" tool \"\\n\" {close}\n");
    let names: Vec<String> = (0..tools.len()).map(|index| format!("tool_{index}")).collect();
    lark.push_str(&format!("tool: {}\n", names.join(" | ")));
    for (name, tool) in names.iter().zip(tools) {
        lark.push_str(&format!("{name}: %json {}\n", schema(tool)));
    }
    GrammarText::Lark(lark)
}

/// The schema of a call.
fn schema(tool: &Callable) -> Value {
    let mut parameters = tool.parameters.clone();
    let mut schema = json!({
        "x-guidance": { "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " },
        "type": "object",
    });
    // References name definitions from the root on.
    for definitions in ["$defs", "definitions"] {
        if let Some(moved) = parameters.as_object_mut().and_then(|parameters| parameters.shift_remove(definitions)) {
            schema[definitions] = moved;
        }
    }
    schema["properties"] = json!({ "name": { "const": tool.name }, "arguments": parameters });
    schema["required"] = json!(["name", "arguments"]);
    schema["additionalProperties"] = false.into();
    schema
}

fn as_rule(content: &GrammarText) -> String {
    match content {
        GrammarText::JsonObject => format!("content: %json {}\n", bounded(json!({ "type": "object" }))),
        GrammarText::JsonSchema(schema) => match serde_json::from_str(schema) {
            Ok(schema) => format!("content: %json {}\n", bounded(schema)),
            // What compiles it says what is wrong with it.
            Err(_) => format!("content: %json {schema}\n"),
        },
        GrammarText::Regex(expression) => format!("content: /{}/\n", expression.replace('/', "\\/")),
        GrammarText::Lark(lark) => format!("content: %lark {{\n{lark}\n}}\n"),
    }
}

/// The schema, with white space that ends.
fn bounded(mut schema: Value) -> Value {
    bound_white_space(&mut schema);
    schema
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use llguidance::api::TopLevelGrammar;
    use llguidance::{Matcher, ParserFactory};
    use toktrie::ApproximateTokEnv;

    use super::*;

    fn tools() -> Vec<Callable> {
        let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" }, "days": { "type": "integer" } },
                                 "required": ["city"], "additionalProperties": false });
        vec![
            Callable { name: "weather \"now\"".to_owned(), parameters },
            Callable { name: "time".to_owned(), parameters: json!({ "type": "object" }) },
        ]
    }

    /// Whether an answer may be `text`.
    fn allows(grammar: &GrammarText, text: &str) -> bool {
        let GrammarText::Lark(lark) = grammar else { panic!("{grammar:?}") };
        let factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).unwrap();
        let parser = factory.create_parser(TopLevelGrammar::from_lark(lark.clone()));
        let mut matcher = Matcher::new(parser);
        assert_eq!(matcher.get_error(), None, "{lark}");
        for byte in text.bytes() {
            if matcher.is_stopped() || !matcher.compute_mask().unwrap().is_allowed(byte.into()) {
                return false;
            }
            matcher.consume_token(byte.into()).unwrap();
        }
        matcher.is_stopped() || matcher.is_accepting().unwrap()
    }

    const TIME: &str = "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>";
    const WEATHER: &str = "<tool_call>\n{\"name\": \"weather \\\"now\\\"\", \"arguments\": {\"city\": \"Köln\", \"days\": 3}}\n</tool_call>";

    #[test]
    fn a_call_that_is_required_is_forced() {
        let grammar = of_calls(&tools(), Choice::Required, true, false, None);
        assert!(allows(&grammar, TIME) && allows(&grammar, WEATHER));
        assert!(allows(&grammar, &format!("{TIME}\n{WEATHER}\n{TIME}")));
        for wrong in [
            "",
            "Hello",
            "<tool_call>\n{\"name\": \"rain\", \"arguments\": {}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"weather \\\"now\\\"\", \"arguments\": {}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"time\"}\n</tool_call>",
            "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}",
        ] {
            assert!(!allows(&grammar, wrong), "{wrong}");
        }
        assert!(!allows(&of_calls(&tools(), Choice::Required, false, false, None), &format!("{TIME}\n{TIME}")));
    }

    #[test]
    fn definitions_are_found() {
        let parameters = json!({
            "$defs": { "City": { "type": "string", "enum": ["Oslo"] } },
            "type": "object", "properties": { "city": { "$ref": "#/$defs/City" } }, "required": ["city"],
        });
        let grammar = of_calls(&[Callable { name: "f".to_owned(), parameters }], Choice::Required, true, false, None);
        assert!(allows(&grammar, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>"));
        assert!(!allows(&grammar, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>"));
    }

    #[test]
    fn text_is_free_until_a_call_is_opened() {
        let grammar = of_calls(&tools(), Choice::Auto, true, false, None);
        for right in ["", "Hello <b>\n\n{}", "a <tool_cal", TIME] {
            assert!(allows(&grammar, right), "{right}");
        }
        assert!(allows(&grammar, &format!("One moment.\n{WEATHER}\n{TIME}")));
        assert!(!allows(&grammar, "One moment. <tool_call>"));
        assert!(!allows(&grammar, "One moment. <tool_call>\nnonsense"));
        assert!(!allows(&grammar, &format!("{TIME} and text")));
        assert!(!allows(&of_calls(&tools(), Choice::Auto, false, false, None), &format!("{TIME}\n{TIME}")));
    }

    #[test]
    fn an_answer_calls_or_looks_as_it_must() {
        let schema =
            GrammarText::JsonSchema("{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}}}".into());
        let grammar = of_calls(&tools(), Choice::Auto, true, false, Some(&schema));
        assert!(allows(&grammar, TIME) && allows(&grammar, "{\"a\": 1}"));
        assert!(!allows(&grammar, "Hello") && !allows(&grammar, "{\"a\": \"x\"}"));
        let grammar = of_calls(&tools(), Choice::Auto, true, false, Some(&GrammarText::JsonObject));
        assert!(allows(&grammar, "{\"x\": [1]}") && !allows(&grammar, "[]"));
    }

    #[test]
    fn control_tokens_may_mark_calls() {
        // The vocabulary of bytes has `<|tool|>` and `<|/tool|>`.
        for choice in [Choice::Auto, Choice::Required] {
            let GrammarText::Lark(lark) = of_calls(&tools(), choice, true, true, None) else { panic!() };
            let lark = lark.replace(CLOSE, "<|/tool|>").replace(OPEN, "<|tool|>");
            let factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).unwrap();
            let mut matcher = Matcher::new(factory.create_parser(TopLevelGrammar::from_lark(lark)));
            let body = b"\n{\"name\": \"time\", \"arguments\": {}}\n".iter().map(|&byte| u32::from(byte));
            let text = if choice == Choice::Auto { vec![u32::from(b'a')] } else { Vec::new() };
            let tokens: Vec<u32> = text.into_iter().chain([256]).chain(body).chain([257]).collect();
            matcher.consume_tokens(&tokens).unwrap();
            assert!(matcher.is_accepting().unwrap());
        }
    }
}
