//! The members of a request: found and counted at once, and each read once, by whoever knows its name.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;

use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::de::SliceRead;

use crate::body::Received;
use crate::error::Error;

/// What a value comes to in memory, in bytes, with what is made of it: typed, for a template, and in it.
const VALUE: usize = 512;
/// The same of a value in a list of tokens.
const TOKEN: usize = 128;
/// What a byte of a text comes to while it is put into a template, rendered and tokenised, in bytes.
const TEXT: usize = 60;
/// The shortest that a value can be that is not its bytes' text, in bytes.
const SHORT: usize = 8;
/// The members that are lists of tokens.
const TOKENS: [&str; 2] = ["prompt", "tokens"];

/// The members of a request.
pub(crate) struct Members<'a> {
    body: &'a [u8],
    members: Vec<Member<'a>>,
}

/// A member that is not read yet.
struct Member<'a> {
    name: String,
    value: &'a [u8],
    /// Whether somebody has read it.
    known: Cell<bool>,
}

impl fmt::Debug for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|member| &member.name)).finish()
    }
}

impl<'a> Members<'a> {
    /// Finds the members of the object that `body` is, and takes what they will need of the budget.
    ///
    /// # Errors
    /// If it is no object, or there is no room for it.
    pub(crate) fn of(body: &'a mut Received) -> Result<Self, Error> {
        let found = Scanner { body, at: 0 }.members().ok_or_else(|| no_object(body))?;
        let named: Option<Vec<(String, Found)>> = found
            .into_iter()
            .map(|found| Some((serde_json::from_slice(body.get(found.name.clone())?).ok()?, found)))
            .collect();
        let named = named.ok_or_else(|| no_object(body))?;
        let weights = named.iter().map(|(name, found)| found.weight(name));
        body.weigh(weights.sum())?;
        let body: &'a Received = body;
        let member = |(name, found): (String, Found)| Member {
            name,
            value: body.get(found.value).unwrap_or_default(),
            known: Cell::new(false),
        };
        Ok(Self { body, members: named.into_iter().map(member).collect() })
    }

    /// Reads the members that `T` knows.
    ///
    /// # Errors
    /// If one of them is not what it should be, or one is missing.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let members = self.members.iter().map(|member| (member.name.as_str(), member));
        serde_path_to_error::deserialize(MapDeserializer::new(members)).map_err(|error| {
            let path = error.path().to_string();
            let error = error.into_inner();
            if !error.is_data() {
                return no_object(self.body);
            }
            let param = (path != ".").then_some(path);
            let place = param.as_ref().map_or(String::new(), |param| format!("{param}: "));
            // Its place in the text is counted from the member on.
            let (sentence, counted) =
                (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
            let sentence = sentence.strip_suffix(&counted).unwrap_or(&sentence);
            Error::Invalid { message: format!("{place}{sentence}"), param, code: Some("invalid_value") }
        })
    }

    /// Refuses members by these names that say something. They are ignored otherwise, and would be missed.
    pub(crate) fn refuse(&self, names: &[&str], instead: &str) -> Result<(), Error> {
        let says_nothing = |value: &[u8]| {
            let value: Vec<u8> = value.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            matches!(value.as_slice(), b"null" | b"false" | b"0" | b"\"\"" | b"[]" | b"{}")
        };
        let refused = |member: &&Member<'_>| names.contains(&member.name.as_str()) && !says_nothing(member.value);
        match self.members.iter().find(refused) {
            Some(Member { name, .. }) => Err(Error::invalid(name, format!("`{name}` is not supported; {instead}"))),
            None => Ok(()),
        }
    }

    /// Looks at the members that nobody knows: they are ignored, but must be JSON.
    ///
    /// # Errors
    /// If they are not.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let unknown = self.members.iter().filter(|member| !member.known.get());
        let valid = |member: &Member<'_>| serde_json::from_slice::<IgnoredAny>(member.value).is_ok();
        if unknown.into_iter().all(valid) { Ok(()) } else { Err(no_object(self.body)) }
    }
}

/// What the JSON in a string will come to in memory when it is read, in bytes.
pub(crate) fn weight_of(json: &str) -> usize {
    VALUE * json.bytes().filter(|byte| matches!(byte, b'"' | b',' | b'[' | b'{')).count()
}

/// Why `body` is no object.
fn no_object(body: &[u8]) -> Error {
    let message = match serde_json::from_slice::<IgnoredAny>(body) {
        Err(error) => format!("the body is not JSON: {error}"),
        Ok(_) => "the body is not a JSON object; send one with the parameters as its members".to_owned(),
    };
    Error::Invalid { message, param: None, code: Some("invalid_json") }
}

impl<'de> IntoDeserializer<'de, serde_json::Error> for &Member<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Member<'de> {
    fn read<T>(
        &self,
        read: impl FnOnce(&mut serde_json::Deserializer<SliceRead<'de>>) -> Result<T, serde_json::Error>,
    ) -> Result<T, serde_json::Error> {
        self.known.set(true);
        let mut json = serde_json::Deserializer::from_slice(self.value);
        let read = read(&mut json)?;
        json.end()?;
        Ok(read)
    }
}

impl<'de> Deserializer<'de> for &Member<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.read(|json| json.deserialize_any(visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.read(|json| json.deserialize_option(visitor))
    }

    /// Another reader may know it.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct
        seq tuple tuple_struct map struct enum identifier
    }
}

/// Where a member is in a body.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Its name, with quotes.
    name: Range<usize>,
    value: Range<usize>,
    /// How many values and names there are in the value, itself included; at least.
    values: usize,
}

impl Found {
    /// What the member of this name comes to in memory, in bytes, beyond what its text does.
    fn weight(&self, name: &str) -> usize {
        let value = if TOKENS.contains(&name) { TOKEN } else { VALUE };
        value * self.values + TEXT * self.value.len().saturating_sub(SHORT * self.values)
    }
}

/// Finds the members of an object. It does not look at what it need not; whoever reads the members does.
struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// `None` if the body is no object.
    fn members(mut self) -> Option<Vec<Found>> {
        let mut members = Vec::new();
        self.expect(b'{')?;
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                self.peek().filter(|&byte| byte == b'"')?;
                let name = self.string()?;
                self.expect(b':')?;
                members.push(self.value(name)?);
                match self.peek()? {
                    b',' => self.at += 1,
                    b'}' => break self.at += 1,
                    _ => return None,
                }
            }
        }
        self.peek().is_none().then_some(members)
    }

    /// The next byte that is not white space, which is left.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.body.get(self.at..)?;
        let white = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count();
        self.at += white;
        rest.get(white).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// A string that begins here.
    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        self.at += 1;
        loop {
            match *self.body.get(self.at)? {
                b'\\' => self.at += 2,
                b'"' => {
                    self.at += 1;
                    return Some(start..self.at);
                }
                _ => self.at += 1,
            }
        }
    }

    /// The value that begins here, up to what cannot belong to it.
    fn value(&mut self, name: Range<usize>) -> Option<Found> {
        self.peek()?;
        let (start, mut depth, mut values) = (self.at, 0_usize, 1);
        loop {
            match *self.body.get(self.at)? {
                b'"' => {
                    values += 1;
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => {
                    values += 1;
                    depth += 1;
                }
                b'}' | b']' | b',' if depth == 0 => break,
                b'}' | b']' => depth -= 1,
                b',' => values += 1,
                _ => {}
            }
            self.at += 1;
        }
        Some(Found { name, value: start..self.at, values })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn found(body: &str) -> Option<Vec<(&str, &str, usize)>> {
        let members = Scanner { body: body.as_bytes(), at: 0 }.members()?;
        Some(members.into_iter().map(|found| (&body[found.name], body[found.value].trim_end(), found.values)).collect())
    }

    #[test]
    fn members_are_found_whatever_is_in_them() {
        assert_eq!(found(" {} "), Some(vec![]));
        assert_eq!(
            found("{\"a\": 1, \"b\\\"}\" : \"x,}\\\"]\" ,\n\"c\":[{\"d\":[1,2]},\"{\"]}"),
            Some(vec![("\"a\"", "1", 1), ("\"b\\\"}\"", "\"x,}\\\"]\"", 2), ("\"c\"", "[{\"d\":[1,2]},\"{\"]", 8)])
        );
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for body in [
            "",
            "null",
            "[1]",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,}",
            "{,}",
            "{a:1}",
            "{} x",
            "{\"a\":\"",
            "{\"a\":[1}",
        ] {
            assert_eq!(found(body), None, "{body}");
        }
    }
}
