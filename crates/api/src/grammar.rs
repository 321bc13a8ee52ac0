//! Grammars that force tool calls.

use serde_json::{Value, json};
use sled_core::sampler::GrammarText;
use sled_model::grammar::{bound_white_space, resolve_references};

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
        // The schema is a grammar of its own: its references name what is in it.
        let head = format!("{{\"name\": {}, \"arguments\": ", Value::from(tool.name.as_str()));
        lark.push_str(&format!("{name}: {} {name}_arguments \"}}\"\n", Value::from(head)));
        lark.push_str(&format!("{name}_arguments: %json {}\n", arguments(&tool.parameters)));
    }
    GrammarText::Lark(lark)
}

/// The schema of a call's arguments, with white space as Python writes it, which is what models were trained on.
fn arguments(parameters: &Value) -> Value {
    let mut schema = parameters.clone();
    resolve_references(&mut schema);
    if let Some(schema) = schema.as_object_mut() {
        let options = schema.entry("x-guidance").or_insert_with(|| json!({}));
        if let Some(options) = options.as_object_mut() {
            options.insert("whitespace_flexible".to_owned(), false.into());
            options.insert("item_separator".to_owned(), ", ".into());
            options.insert("key_separator".to_owned(), ": ".into());
        }
    }
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
    resolve_references(&mut schema);
    bound_white_space(&mut schema);
    schema
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use llguidance::api::TopLevelGrammar;
    use llguidance::{Matcher, ParserFactory};
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::select;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, TestRunner};
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

    /// A grammar, ready to be asked; `None` if it is refused.
    fn matcher(factory: &ParserFactory, grammar: TopLevelGrammar) -> Option<Matcher> {
        let matcher = Matcher::new(factory.create_parser(grammar));
        matcher.get_error().is_none().then_some(matcher)
    }

    fn accepts(matcher: &Matcher, text: &str) -> bool {
        let mut matcher = matcher.deep_clone();
        for byte in text.bytes() {
            // Where nothing can follow there is no mask.
            let allowed = matcher.compute_mask().is_ok_and(|mask| mask.is_allowed(byte.into()));
            // A schema that requires itself has no end, which is an error.
            if matcher.is_stopped() || !allowed || matcher.consume_token(byte.into()).is_err() {
                return false;
            }
        }
        matcher.is_stopped() || matcher.is_accepting().unwrap()
    }

    /// JSON as Python writes it.
    fn written(value: &Value) -> String {
        match value {
            Value::Array(values) => format!("[{}]", values.iter().map(written).collect::<Vec<_>>().join(", ")),
            Value::Object(members) => {
                let members =
                    members.iter().map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), written(value)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
            }
            value => value.to_string(),
        }
    }

    /// Which of `values` a schema allows as arguments, and which as a response format; `None` where it is refused.
    fn both(factory: &ParserFactory, schema: &Value, values: &[Value]) -> [Option<Vec<bool>>; 2] {
        let tool = Callable { name: "f".to_owned(), parameters: schema.clone() };
        let GrammarText::Lark(lark) = of_calls(&[tool], Choice::Required, false, false, None) else { panic!() };
        let arguments = matcher(factory, TopLevelGrammar::from_lark(lark));
        let format = matcher(factory, TopLevelGrammar::from_json_schema(bounded(schema.clone())));
        let call = |text: String| format!("<tool_call>\n{{\"name\": \"f\", \"arguments\": {text}}}\n</tool_call>");
        let arguments =
            arguments.map(|matcher| values.iter().map(|value| accepts(&matcher, &call(written(value)))).collect());
        let format = format.map(|matcher| values.iter().map(|value| accepts(&matcher, &written(value))).collect());
        [arguments, format]
    }

    fn factory() -> ParserFactory {
        let mut factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).unwrap();
        factory.quiet();
        factory
    }

    #[test]
    fn references_name_what_is_in_the_tools_own_schema() {
        let named = json!({ "type": "object", "properties": {
            "name": { "type": "string", "enum": ["x"] }, "new_name": { "$ref": "#/properties/name" },
            "a/b~c%": { "type": "integer" }, "number": { "$ref": "#/properties/a~1b~0c%25" },
            "more": { "type": "array", "items": { "$ref": "#" } },
        } });
        let values = [
            json!({ "new_name": "x" }),
            json!({ "new_name": "f" }),
            json!({ "number": 1 }),
            json!({ "number": "1" }),
            json!({ "more": [{ "name": "x", "more": [] }] }),
            json!({ "more": [{ "name": "y" }] }),
        ];
        let expected = Some(vec![true, false, true, false, true, false]);
        assert_eq!(both(&factory(), &named, &values), [expected.clone(), expected]);
        for refused in ["#/properties/none", "#anchor", "other.json", "#/properties/%6eone", "#/$defs"] {
            let schema = json!({ "$defs": 3, "properties": { "a": { "$ref": refused } } });
            assert_eq!(both(&factory(), &schema, &[]), [None, None], "{refused}");
        }
    }

    const KEYS: [&str; 4] = ["name", "arguments", "a/b", "~%41"];
    const REFERENCES: [&str; 12] = [
        "#",
        "#/properties/name",
        "#/properties/arguments",
        "#/properties/a~1b",
        "#/properties/~0%2541",
        "#/properties/name/properties/arguments",
        "#/properties/arguments/items",
        "#/properties/%61~1b/properties/name",
        "#/$defs/name",
        "#/$defs/a~1b",
        "#/$defs/name/anyOf/0",
        "#/definitions/name",
    ];

    fn schemas() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            select(vec![
                json!({ "type": "integer" }),
                json!({ "type": "string", "maxLength": 2 }),
                json!({ "const": null }),
                json!(true)
            ]),
            select(REFERENCES.to_vec()).prop_map(|reference| json!({ "$ref": reference })),
        ];
        let schema = leaf.prop_recursive(2, 12, 3, |inner| {
            let properties = btree_map(select(KEYS.to_vec()), inner.clone(), 0..4);
            prop_oneof![
                inner.clone().prop_map(|items| json!({ "type": "array", "items": items })),
                vec(inner, 1..3).prop_map(|options| json!({ "anyOf": options })),
                (properties, any::<bool>()).prop_map(|(properties, more)| {
                    json!({ "type": "object", "properties": properties, "additionalProperties": more })
                }),
            ]
        });
        let definitions = || btree_map(select(KEYS.to_vec()), schema.clone(), 0..3);
        (btree_map(select(KEYS.to_vec()), schema.clone(), 1..4), definitions(), definitions(), vec(select(KEYS.to_vec()), 0..2)).prop_map(
            |(properties, defs, definitions, required)| {
                json!({ "type": "object", "$defs": defs, "definitions": definitions, "properties": properties, "required": required })
            },
        )
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = select(vec![json!(1), json!("x"), json!("f"), json!(null), json!(1.5)]);
        let value = leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..3).prop_map(Value::from),
                btree_map(select(KEYS.to_vec()), inner, 0..4).prop_map(|members| json!(members)),
            ]
        });
        btree_map(select(KEYS.to_vec()), value, 0..4).prop_map(|members| json!(members))
    }

    #[test]
    fn arguments_may_be_what_an_answer_of_the_same_format_may_be() {
        let factory = factory();
        let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
        let (mut allowed, mut refused) = (0, 0);
        for _ in 0..400 {
            let schema = schemas().new_tree(&mut runner).unwrap().current();
            let values: Vec<Value> = (0..20).map(|_| values().new_tree(&mut runner).unwrap().current()).collect();
            let [arguments, format] = both(&factory, &schema, &values);
            assert_eq!(arguments, format, "{schema} {values:?}");
            let count = format.iter().flatten().filter(|&&allowed| allowed).count();
            allowed += count;
            refused += values.len() - count;
        }
        assert!(allowed > 1000 && refused > 1000, "{allowed} allowed, {refused} refused");
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
