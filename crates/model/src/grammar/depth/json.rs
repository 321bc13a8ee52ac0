//! The depth of JSON schemas.

use std::collections::HashMap;

use serde_json::Value;

use super::{Graph, regex_depth};

/// Keys whose values name schemas and are none themselves.
const MAPS: [&str; 5] = ["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"];

/// The longest chain of schemas in `root`: each is a step, whether it stands in the one before or is referred to.
pub(super) fn depth(root: &Value) -> usize {
    let mut schemas = Schemas { root, graph: Graph::default(), parts: HashMap::new(), references: Vec::new() };
    let top = schemas.graph.add();
    schemas.read(root, top, false);
    schemas.refer();
    schemas.graph.longest()
}

struct Schemas<'a> {
    root: &'a Value,
    graph: Graph,
    /// The part that each object or list is of, by its address.
    parts: HashMap<*const Value, usize>,
    references: Vec<(usize, &'a str)>,
}

impl<'a> Schemas<'a> {
    /// Reads what `part` holds. That recurses as deep as the text is nested, which its parser limits.
    fn read(&mut self, value: &'a Value, part: usize, names: bool) {
        match value {
            Value::Array(values) => {
                self.parts.insert(value, part);
                values.iter().for_each(|value| self.read(value, part, false));
            }
            Value::Object(entries) => {
                let schema = if names {
                    part
                } else {
                    let schema = self.graph.add();
                    self.graph.step(part, schema, 1);
                    schema
                };
                self.parts.insert(value, schema);
                for (key, value) in entries {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(reference)) if !names => self.references.push((schema, reference)),
                        ("pattern", Value::String(expression)) if !names => {
                            self.graph.deepen(schema, regex_depth(expression));
                        }
                        (key, value) => self.read(value, schema, !names && MAPS.contains(&key)),
                    }
                    if names {
                        self.graph.deepen(schema, regex_depth(key));
                    }
                }
            }
            _ => {}
        }
    }

    fn refer(&mut self) {
        for (from, reference) in std::mem::take(&mut self.references) {
            if let Some(to) = self.target(reference) {
                self.graph.step(from, to, 1);
            }
        }
    }

    /// What a reference means; `None` if it leads nowhere.
    fn target(&self, reference: &str) -> Option<usize> {
        let path = reference.strip_prefix('#')?;
        let mut value = self.root;
        for segment in path.split('/').skip(1).filter(|_| path != "/") {
            value = match value {
                Value::Array(values) => values.get(segment.parse::<usize>().ok()?)?,
                value => value.get(segment).or_else(|| value.get(segment.replace("~1", "/").replace("~0", "~")))?,
            };
        }
        self.parts.get(&std::ptr::from_ref(value)).copied()
    }
}
