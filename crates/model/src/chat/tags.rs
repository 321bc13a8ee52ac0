//! The tags of a template, before the engine reads them.
//!
//! `{% generation %}` is how `transformers` marks what the assistant says, for training; the engine does not know the tag. And a
//! tag that is a long chain of operators takes the engine time that grows with the square of its length.

/// The most bytes that a tag may have, beside its strings.
const LONGEST_TAG: usize = 4096;

/// `source` with the tags of a generation replaced by those of a block that changes nothing; an error if a tag is too long.
pub(super) fn read(source: &str) -> Result<String, String> {
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
        if !tag.starts_with("{#") && name(tag) != "raw" && code_len(tag) > LONGEST_TAG {
            return Err(format!("one of its tags has more than {LONGEST_TAG} bytes beside its strings"));
        }
        match name(tag) {
            "generation" => text.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => text.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// How many bytes a tag has beside its strings.
fn code_len(tag: &str) -> usize {
    let (mut string, mut escaped, mut len) = (None, false, 0);
    for character in tag.chars() {
        match string {
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(quote) if character == quote => string = None,
            Some(_) => {}
            None if character == '"' || character == '\'' => string = Some(character),
            None => len += character.len_utf8(),
        }
    }
    len
}

/// The first word of a `{% %}` tag.
fn name(tag: &str) -> &str {
    let Some(inside) = tag.strip_prefix("{%") else { return "" };
    let inside = inside.trim_start_matches(['-', '+']).trim_start();
    inside.split(|character: char| !character.is_ascii_alphanumeric() && character != '_').next().unwrap_or_default()
}

/// Where a tag ends that `mark` closes: not inside a string or brackets.
fn end_of(tag: &str, mark: &str) -> Option<usize> {
    let (mut string, mut escaped, mut brackets) = (None, false, 0_usize);
    for (index, character) in tag.char_indices().skip(2) {
        match (string, character) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(quote), character) if character == quote => string = None,
            (Some(_), _) => {}
            (None, _) if brackets == 0 && tag[index..].starts_with(mark) => return Some(index + mark.len()),
            (None, '"' | '\'') => string = Some(character),
            (None, '(' | '[' | '{') => brackets += 1,
            (None, ')' | ']' | '}') => brackets = brackets.saturating_sub(1),
            (None, _) => {}
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
        assert_eq!(read("a{% generation %}b{%- endgeneration -%}c").as_deref(), Ok("a{% with %}b{%- endwith -%}c"));
        assert_eq!(read("{%-generation-%}{{ x }}{% endgeneration %}").as_deref(), Ok("{%-with-%}{{ x }}{% endwith %}"));
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
            assert_eq!(read(source).as_deref(), Ok(source));
        }
        assert_eq!(read("{% raw %}'{% endraw %}{% generation %}").as_deref(), Ok("{% raw %}'{% endraw %}{% with %}"));
    }

    #[test]
    fn a_long_chain_in_a_tag_is_refused_and_a_long_string_is_not() {
        let chain = "a+".repeat(LONGEST_TAG / 2);
        let string = "a ".repeat(LONGEST_TAG);
        for refused in [
            format!("{{{{ {chain}a }}}}"),
            format!("{{% if {chain}a %}}{{% endif %}}"),
            format!("{{{{ '}}}}' ~ {chain}a }}}}"),
            format!("{{{{ {{1: {{}}}} ~ {chain}a }}}}"),
            format!("{{% raw %}}{{#{{% endraw %}}{{{{ '#}}' ~ {chain}a }}}}"),
            format!("{{% raw %}}{{{{ '{{% endraw %}}{{{{ {chain}a }}}}"),
        ] {
            assert!(read(&refused).is_err(), "{refused}");
        }
        for taken in [format!("{{{{ '{string}' }}}}"), format!("{{# {chain} #}}"), chain] {
            assert_eq!(read(&taken).as_deref(), Ok(&taken[..]));
        }
    }
}
