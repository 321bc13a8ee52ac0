//! Any list of records as CSV: what is nested has dots in its name.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// One line for each record, under the names of the first.
pub fn csv<T: Serialize>(records: &[T]) -> anyhow::Result<String> {
    let mut text = String::new();
    for (index, record) in records.iter().enumerate() {
        let mut cells = Vec::new();
        flatten("", &serde_json::to_value(record)?, &mut cells);
        if index == 0 {
            text += &(cells.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",") + "\n");
        }
        text += &(cells.into_iter().map(|(_, cell)| cell).collect::<Vec<_>>().join(",") + "\n");
    }
    Ok(text)
}

fn flatten(name: &str, value: &Value, cells: &mut Vec<(String, String)>) {
    let under = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(fields) => {
            // In which order they come depends on what other crates ask of serde_json.
            let fields: BTreeMap<_, _> = fields.iter().collect();
            fields.into_iter().for_each(|(key, value)| flatten(&under(key), value, cells));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| flatten(&under(&at.to_string()), value, cells))
        }
        Value::Null => cells.push((name.to_owned(), String::new())),
        Value::String(text) if text.contains([',', '"', '\n']) => {
            cells.push((name.to_owned(), format!("\"{}\"", text.replace('"', "\"\""))));
        }
        Value::String(text) => cells.push((name.to_owned(), text.clone())),
        other => cells.push((name.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nested_values_have_columns_of_their_own() {
        let records = [
            serde_json::json!({ "name": "a, \"b\"", "rate": { "mean": 1.5, "ci95": null }, "both": [1, 2] }),
            serde_json::json!({ "name": "c", "rate": { "mean": 2.0, "ci95": 0.5 }, "both": [3, 4] }),
        ];
        let text = csv(&records).unwrap();
        assert_eq!(text, "both.0,both.1,name,rate.ci95,rate.mean\n1,2,\"a, \"\"b\"\"\",,1.5\n3,4,c,0.5,2.0\n");
    }
}
