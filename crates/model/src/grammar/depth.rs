//! How deep a grammar is, before anything recurses that deep.
//!
//! The library that compiles grammars follows references and nesting by recursion. Here they become the edges of a graph, whose
//! longest chain is found without. A reference to something that the chain has come through ends it: grammars may be recursive.

mod json;
mod lark;

use std::collections::HashMap;

use sled_core::sampler::GrammarText;

/// How many steps from part to part a grammar may have, one behind the other.
pub(super) const MOST: usize = 128;

/// Checks that `text` is not deeper than [`MOST`]. What is not well-formed passes: the library says what is wrong with it.
pub(super) fn check(text: &GrammarText) -> Result<(), String> {
    let depth = match text {
        GrammarText::JsonObject => 0,
        GrammarText::JsonSchema(schema) => serde_json::from_str(schema).map_or(0, |schema| json::depth(&schema)),
        GrammarText::Lark(source) => lark::depth(source),
        GrammarText::Regex(expression) => regex_depth(expression),
    };
    if depth > MOST {
        return Err(format!(
            "its parts are nested or refer to each other {depth} deep, and at most {MOST} are allowed; make it flatter"
        ));
    }
    Ok(())
}

/// How deep the groups of a regular expression are nested.
fn regex_depth(expression: &str) -> usize {
    let (mut depth, mut most, mut class) = (0_usize, 0, false);
    let mut characters = expression.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            '[' => class = true,
            ']' => class = false,
            '(' if !class => {
                depth += 1;
                most = most.max(depth);
            }
            ')' if !class => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// What refers to what.
#[derive(Default)]
struct Graph {
    parts: Vec<Part>,
}

#[derive(Default)]
struct Part {
    /// How deep it is by itself.
    own: usize,
    /// The parts in it, and how many steps it is to each.
    steps: Vec<(usize, usize)>,
}

impl Graph {
    fn add(&mut self) -> usize {
        self.parts.push(Part::default());
        self.parts.len() - 1
    }

    fn step(&mut self, from: usize, to: usize, steps: usize) {
        self.parts[from].steps.push((to, steps));
    }

    fn deepen(&mut self, part: usize, depth: usize) {
        self.parts[part].own = self.parts[part].own.max(depth);
    }

    /// The most steps of a chain that comes to no part twice.
    fn longest(&self) -> usize {
        let mut known: HashMap<usize, usize> = HashMap::new();
        let mut open = vec![false; self.parts.len()];
        (0..self.parts.len()).map(|part| self.longest_from(part, &mut known, &mut open)).max().unwrap_or(0)
    }

    fn longest_from(&self, start: usize, known: &mut HashMap<usize, usize>, open: &mut [bool]) -> usize {
        // The parts that the chain has come through: which of their steps is next, and the longest so far.
        let mut chain = Vec::new();
        if !known.contains_key(&start) {
            open[start] = true;
            chain.push((start, 0, self.parts[start].own));
        }
        while let Some((part, next, longest)) = chain.last_mut() {
            let Some(&(to, steps)) = self.parts[*part].steps.get(*next) else {
                let (part, longest) = (*part, *longest);
                chain.pop();
                open[part] = false;
                known.insert(part, longest);
                continue;
            };
            if open[to] {
                *longest = (*longest).max(steps);
                *next += 1;
            } else if let Some(rest) = known.get(&to) {
                *longest = (*longest).max(steps + rest);
                *next += 1;
            } else {
                open[to] = true;
                chain.push((to, 0, self.parts[to].own));
            }
        }
        known.get(&start).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn depth(text: &GrammarText) -> usize {
        match check(text) {
            Ok(()) => 0,
            Err(sentence) => sentence.split_whitespace().find_map(|word| word.parse().ok()).unwrap(),
        }
    }

    fn json(text: &str) -> usize {
        json::depth(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn what_is_flat_has_no_depth() {
        assert_eq!(json("true"), 0);
        assert_eq!(json(r#"{"type": "string"}"#), 1);
        assert_eq!(json(r#"{"properties": {"a": {"type": "string"}, "b": {"items": {}}}}"#), 3);
        assert_eq!(lark::depth("start: \"a\" | /b(c)/ | A\nA: \"x\""), 2);
        assert_eq!(regex_depth(r"a(b[(]c)\((d)"), 1);
        assert_eq!(depth(&GrammarText::JsonObject), 0);
    }

    #[test]
    fn references_are_followed_wherever_they_lead() {
        assert_eq!(json(r##"{"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {}}}"##), 4);
        // Through a list, into the middle of a schema, to a name that is escaped, and to nothing.
        assert_eq!(json(r##"{"anyOf": [{"type": "null"}, {"items": {"$ref": "#/anyOf/0"}}]}"##), 4);
        assert_eq!(json(r##"{"properties": {"a/b": {}, "c": {"$ref": "#/properties/a~1b"}}}"##), 3);
        assert_eq!(json(r##"{"properties": {"a": {"$ref": "#/nowhere"}}}"##), 2);
    }

    #[test]
    fn recursion_is_no_depth() {
        let tree = r##"{"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}"##;
        assert_eq!(json(tree), 3);
        let expression = "start: sum\nsum: product (\"+\" product)*\nproduct: atom | product \"*\" atom\natom: NUM | \"(\" sum \")\"\nNUM: /[0-9]+/";
        assert!(lark::depth(expression) < 12, "{}", lark::depth(expression));
    }

    #[test]
    fn chains_of_any_shape_are_too_deep_from_129_on() {
        for (links, refused) in [(40, false), (1000, true)] {
            let references: String =
                (0..links).map(|i| format!("\"d{i}\": {{\"$ref\": \"#/$defs/d{}\"}},", i + 1)).collect();
            let schema = format!("{{\"$ref\": \"#/$defs/d0\", \"$defs\": {{{references} \"d{links}\": {{}}}}}}");
            assert_eq!(check(&GrammarText::JsonSchema(schema)).is_err(), refused);
            let rules: String = (0..links).map(|i| format!("r{i}: \"a\" r{}\n", i + 1)).collect();
            assert_eq!(check(&GrammarText::Lark(format!("start: r0\n{rules}r{links}: \"b\""))).is_err(), refused);
            let terminals: String = (0..links).map(|i| format!("T{i}: \"a\" T{}\n", i + 1)).collect();
            assert_eq!(check(&GrammarText::Lark(format!("start: T0\n{terminals}T{links}: \"b\""))).is_err(), refused);
            let groups = format!("{}a{}", "(".repeat(links), ")".repeat(links));
            assert_eq!(check(&GrammarText::Regex(groups.clone())).is_err(), refused);
            assert_eq!(check(&GrammarText::Lark(format!("start: /{groups}/"))).is_err(), refused);
            assert_eq!(check(&GrammarText::Lark(format!("start: {groups}"))).is_err(), refused);
            let nested = format!("{}start: \"a\"{}", "start: %lark {\n".repeat(links), "\n}".repeat(links));
            assert_eq!(check(&GrammarText::Lark(nested)).is_err(), refused);
            let inside = format!("start: %json {{\"$ref\": \"#/d0\", {references} \"d{links}\": {{}}}}");
            let inside = inside.replace("$defs/", "");
            assert_eq!(check(&GrammarText::Lark(inside)).is_err(), refused);
            let pattern = format!("{{\"type\": \"string\", \"pattern\": \"{groups}\"}}");
            assert_eq!(check(&GrammarText::JsonSchema(pattern)).is_err(), refused);
        }
    }

    #[test]
    fn depths_add_up() {
        let half: String = (0..70).map(|i| format!("r{i}: \"a\" r{}\n", i + 1)).collect();
        let links: String = (0..70).map(|i| format!("\"d{i}\": {{\"$ref\": \"#/d{}\"}},", i + 1)).collect();
        let source = format!("start: r0\n{half}r70: %json {{\"$ref\": \"#/d0\", {links} \"d70\": {{}}}}");
        assert!(depth(&GrammarText::Lark(source)) > 140);
    }
}
