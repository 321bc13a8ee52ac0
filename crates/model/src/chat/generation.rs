//! `{% generation %}`: how `transformers` marks what the assistant says, for training. The engine does not know the tag.

/// `source` with the tags replaced by those of a block that changes nothing.
pub(super) fn without_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map(|end| end + 2),
            Some(b'{') => end_of(tag, "}}"),
            Some(b'%') if name(tag) == "raw" => end_of_raw(tag),
            Some(b'%') => end_of(tag, "%}"),
            _ => Some(1),
        };
        let (tag, after) = tag.split_at(end.unwrap_or(tag.len()));
        match name(tag) {
            "generation" => text.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => text.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// The first word of a `{% %}` tag.
fn name(tag: &str) -> &str {
    let Some(inside) = tag.strip_prefix("{%") else { return "" };
    let inside = inside.trim_start_matches(['-', '+']).trim_start();
    inside.split(|character: char| !character.is_ascii_alphanumeric() && character != '_').next().unwrap_or_default()
}

/// Where a tag ends that `mark` closes: not inside a string.
fn end_of(tag: &str, mark: &str) -> Option<usize> {
    let (mut string, mut escaped) = (None, false);
    for (index, character) in tag.char_indices().skip(2) {
        match string {
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(quote) if character == quote => string = None,
            Some(_) => {}
            None if tag[index..].starts_with(mark) => return Some(index + mark.len()),
            None if character == '"' || character == '\'' => string = Some(character),
            None => {}
        }
    }
    None
}

/// Where the tag ends that ends a raw block.
fn end_of_raw(block: &str) -> Option<usize> {
    let mut at = 2;
    loop {
        at += block.get(at..)?.find("{%")?;
        if name(&block[at..]) == "endraw" {
            return end_of(&block[at..], "%}").map(|end| at + end);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tags_become_a_block_that_changes_nothing() {
        assert_eq!(without_tags("a{% generation %}b{%- endgeneration -%}c"), "a{% with %}b{%- endwith -%}c");
        assert_eq!(without_tags("{%-generation-%}{{ x }}{% endgeneration %}"), "{%-with-%}{{ x }}{% endwith %}");
    }

    #[test]
    fn what_only_looks_like_the_tags_is_left_as_it_is() {
        for source in [
            "",
            "{",
            "generation { endgeneration }",
            "{# {% generation %} #}",
            "{{ '{% generation %}' }}",
            "{{ \"\\\"{% generation %}\" }}",
            "{% if generation %}{% endif %}",
            "{% generation_of(x) %}",
            "{% raw %}{% generation %}{{ ' }}{% endraw %}",
            "{% set x = '%}{% generation %}' %}",
        ] {
            assert_eq!(without_tags(source), source);
        }
        assert_eq!(without_tags("{% raw %}'{% endraw %}{% generation %}"), "{% raw %}'{% endraw %}{% with %}");
    }
}
