//! References in JSON schemas: pointers that need escapes, in the one form that the grammar library follows.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

/// Keywords that have a schema for each name.
const NAMED: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keywords that have no schema, but data.
const DATA: [&str; 5] = ["const", "enum", "default", "examples", "required"];

/// Rewrites the references of `schema` whose pointers have escapes (`~0`, `~1`, `%25`): what they name is moved to where it can
/// be named without, and a reference stays in its place. What names nothing stays as it is, for the compiler to refuse.
pub fn resolve_references(schema: &mut Value) {
    let mut pointers = BTreeMap::new();
    each_reference(schema, &mut |reference| {
        if let Some(pointer) = escaped(reference) {
            pointers.insert(pointer, None);
        }
    });
    if pointers.is_empty() {
        return;
    }
    let home =
        (0..).map(|number| format!("x-moved-{number}")).find(|name| schema.get(name).is_none()).unwrap_or_default();
    let mut moved = Map::new();
    // What is inside of something else is moved before it.
    for (pointer, place) in pointers.iter_mut().rev() {
        let name = moved.len().to_string();
        let reference = format!("#/{home}/{name}");
        if let Some(target) = schema.pointer_mut(pointer) {
            moved.insert(name, std::mem::replace(target, json!({ "$ref": reference })));
            *place = Some(reference);
        }
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.insert(home, moved.into());
    }
    each_reference(schema, &mut |reference| {
        let place = escaped(reference).and_then(|pointer| pointers.get(&pointer));
        if let Some(Some(place)) = place {
            reference.clone_from(place);
        }
    });
}

/// The pointer of a reference from the root on, if it has escapes.
fn escaped(reference: &str) -> Option<String> {
    let pointer = reference.strip_prefix('#').filter(|pointer| pointer.starts_with('/'))?;
    if !pointer.contains(['~', '%']) {
        return None;
    }
    Some(percent_decode_str(pointer).decode_utf8().ok()?.into_owned())
}

/// Shows `f` the references of `schema` and of all schemas in it.
fn each_reference(schema: &mut Value, f: &mut impl FnMut(&mut String)) {
    let keywords = match schema {
        Value::Array(schemas) => return schemas.iter_mut().for_each(|schema| each_reference(schema, f)),
        Value::Object(keywords) => keywords,
        _ => return,
    };
    for (keyword, value) in keywords {
        match (keyword.as_str(), value) {
            ("$ref", Value::String(reference)) => f(reference),
            (keyword, Value::Object(named)) if NAMED.contains(&keyword) => {
                named.values_mut().for_each(|schema| each_reference(schema, f));
            }
            (keyword, _) if DATA.contains(&keyword) => {}
            (_, value) => each_reference(value, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(mut schema: Value) -> Value {
        resolve_references(&mut schema);
        schema
    }

    #[test]
    fn what_needs_no_escapes_stays_as_it_is() {
        for schema in [
            json!(true),
            json!({ "properties": { "a/b": { "$ref": "#/properties/c" }, "c": { "$ref": "#" } } }),
            json!({ "$ref": "https://example.com/a%20b" }),
            json!({ "const": { "$ref": "#/a~1b" }, "a/b": 1, "examples": [{ "$ref": "#/a~1b" }] }),
        ] {
            assert_eq!(resolved(schema.clone()), schema);
        }
    }

    #[test]
    fn what_is_named_with_escapes_is_moved_once_and_named_without() {
        let schema = json!({ "properties": {
            "a/b": { "type": "integer" },
            "one": { "$ref": "#/properties/a~1b" },
            "two": { "$ref": "#/properties/a%7E1b" },
            "const": { "$ref": "#/properties/a~1b" },
            "lost": { "$ref": "#/properties/x~1y" },
        } });
        let reference = json!({ "$ref": "#/x-moved-0/0" });
        let expected = json!({
            "properties": { "a/b": reference, "one": reference, "two": reference, "const": reference,
                            "lost": { "$ref": "#/properties/x~1y" } },
            "x-moved-0": { "0": { "type": "integer" } },
        });
        assert_eq!(resolved(schema), expected);
    }

    #[test]
    fn what_is_inside_of_what_is_moved_is_found() {
        let schema = json!({ "$defs": { "100%": {
            "properties": { "~": { "type": "null" }, "up": { "$ref": "#/$defs/100%25" } },
        } }, "items": { "$ref": "#/$defs/100%25/properties/~0" } });
        let expected = json!({
            "$defs": { "100%": { "$ref": "#/x-moved-0/1" } },
            "items": { "$ref": "#/x-moved-0/0" },
            "x-moved-0": {
                "0": { "type": "null" },
                "1": { "properties": { "~": { "$ref": "#/x-moved-0/0" }, "up": { "$ref": "#/x-moved-0/1" } } },
            },
        });
        assert_eq!(resolved(schema), expected);
    }
}
